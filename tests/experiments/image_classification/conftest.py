"""Made-up records, to see how artefacts are drawn without running anything."""

import random
from collections.abc import Callable

import pytest

from experiments.engine.record import Store
from experiments.engine.spec import (
    CorruptedSpec,
    CostSpec,
    DrawSweepSpec,
    LanguageSpec,
    OodSpec,
    PerplexitySpec,
    RegressionSpec,
    Spec,
    SurfaceSpec,
    TemperatureSpec,
    TrainSpec,
)
from experiments.metrics.ood import OOD_METRICS

MACHINE = {"device": "a made-up machine"}
METRICS = ("top1_acc", "top5_acc", "nll", "ece", "brier", "auroc")


def _result(spec: Spec) -> dict:
    """Numbers of the right kind that depend on the run alone."""
    draw = random.Random(spec.id).random
    if isinstance(spec, TrainSpec):
        names = ("train_nll", "train_error", "nll", "error")
        history = [
            {"epoch": epoch, "step": epoch * spec.steps_per_epoch, **{name: draw() for name in names}}
            for epoch in range(spec.curve_every, spec.epochs + 1, spec.curve_every)
        ]
        return {
            "history": history,
            "seconds": 1.0,
            "steps": 1,
            "train_size": spec.train_size,
            "parameters": 1,
        }
    if isinstance(spec, OodSpec):
        sides = {side: [int(100 * draw()) for _ in range(50)] for side in ("inside", "outside")}
        metrics = {name: 100 * draw() for name in OOD_METRICS}
        return {"metrics": metrics, "entropy": sides, "images": 720, "seconds": 1.0}
    if isinstance(spec, CorruptedSpec):
        metrics = {name: draw() for name in (*METRICS, "ece_pooled")}
        each = {name: {metric: draw() for metric in METRICS} for name in spec.corruptions}
        return {"metrics": metrics, "corruptions": each, "images": 32, "source": "made", "seconds": 1.0}
    if isinstance(spec, CostSpec):
        costs = [
            {
                "step_seconds": [0.01 + draw() for _ in range(spec.rounds)],
                "peak_bytes": int(1e8 * (1 + draw())),
                "kept_bytes": 8000,
            }
            for _ in spec.compared
        ]
        return {"clock": "processor", "parameters": 1000, "costs": costs, "seconds": 1.0}
    if isinstance(spec, DrawSweepSpec):
        sweep = [{"draws": count, **{name: draw() for name in METRICS}} for count in spec.counts]
        return {"metrics": sweep[-1], "sweep": sweep, "images": 720, "seconds": 1.0}
    if isinstance(spec, LanguageSpec):
        history = [
            {"step": step, "tokens": step * spec.tokens_per_step, "train_nll": 2 + draw(), "nll": 2 + draw()}
            for step in range(spec.eval_every, spec.train_steps + 1, spec.eval_every)
        ]
        return {"history": history, "round_seconds": [1.0] * spec.rounds, "seconds": 1.0, "mfu": None}
    if isinstance(spec, PerplexitySpec):
        points = [{"draws": 2**k, "nll": 2 + draw()} for k in range(6)]
        return {"mean_nll": 2 + draw(), "by_draws": points, "tokens": 100, "seconds": 1.0}
    if isinstance(spec, RegressionSpec):
        grid = [x / 20 for x in range(-60, 61)]
        curves = {name: [draw() for _ in grid] for name in ("truth", "mean", "std")}
        data = {"inputs": [draw() for _ in range(9)], "targets": [draw() for _ in range(9)]}
        return {"grid": grid, **curves, **data, "rhat": 1.0, "acceptance": 0.8, "seconds": 1.0}
    if isinstance(spec, SurfaceSpec):
        found = [[[0, *start], [spec.steps, draw(), draw()]] for start in spec.starts]
        return {"paths": found, "seconds": 1.0}
    bins = range(20)
    result = {
        "metrics": {name: draw() for name in METRICS},
        "reliability": {
            "confidence": [None if index < 2 else (index + 0.5) / 20 for index in bins],
            "accuracy": [None if index < 2 else draw() for index in bins],
            "count": [0 if index < 2 else 40 for index in bins],
        },
        "images": 720,
        "seconds": 1.0,
    }
    if isinstance(spec, TemperatureSpec):
        result["metrics_before"] = {name: draw() for name in METRICS}
        result["temperatures"] = [draw(), draw()]
    return result


@pytest.fixture
def fabricate() -> Callable[[Store, list[Spec]], None]:
    def write(store: Store, specs: list[Spec]) -> None:
        for spec in specs:
            store.add(spec, {"failure": None, "result": _result(spec), "machine": MACHINE})

    return write


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "runs")
