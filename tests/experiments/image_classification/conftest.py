"""Made-up records, to see how artefacts are drawn without running anything."""

import random
from collections.abc import Callable

import pytest

from experiments.engine.record import Store
from experiments.engine.spec import OodSpec, Spec, TrainSpec
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
    bins = range(20)
    return {
        "metrics": {name: draw() for name in METRICS},
        "reliability": {
            "confidence": [None if index < 2 else (index + 0.5) / 20 for index in bins],
            "accuracy": [None if index < 2 else draw() for index in bins],
            "count": [0 if index < 2 else 40 for index in bins],
        },
        "images": 720,
        "seconds": 1.0,
    }


@pytest.fixture
def fabricate() -> Callable[[Store, list[Spec]], None]:
    def write(store: Store, specs: list[Spec]) -> None:
        for spec in specs:
            store.add(spec, {"failure": None, "result": _result(spec), "machine": MACHINE})

    return write


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "runs")
