"""Table 7: quality, time and memory of IVON with each estimator of the Hessian, ResNet-20 on CIFAR-10.

SG is there twice: the paper's text has the squared gradient of the mini-batch, the official package
multiplies it by the effective sample size.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.engine.artefact import Artefact, Scale
from experiments.engine.record import Store
from experiments.engine.spec import CostSpec, EvalSpec, TrainSpec
from experiments.image_classification.captions import caption
from experiments.image_classification.grid import SEEDS
from experiments.image_classification.methods import TEST_DRAWS
from experiments.in_domain.table2 import in_domain_training
from experiments.metrics import METRICS, Metric

if TYPE_CHECKING:
    import pandas as pd

ESTIMATORS = {
    "price": "Reparameterisation (IVON)",
    "sg": "SG (squared gradient)",
    "gradsq": "SG (as ivon-opt: times ess)",
    "ggn": "GGN (squares of single examples)",
}
PUBLISHED_AS = {
    "Reparam (IVON)": ESTIMATORS["price"],
    "SG (minibatch squared gradient)": ESTIMATORS["sg"],
    "GGN (per-example squared gradient)": ESTIMATORS["ggn"],
}
QUALITY = ("top1_acc", "nll", "ece", "brier")
STEP = Metric(name="step_time", title="Step", unit="ms", higher_is_better=False, digits=1)
MEMORY = Metric(name="gpu_memory", title="Peak memory", unit="MB", higher_is_better=False, digits=0)
TURNS: dict[Scale, dict[str, int]] = {
    "demo": {"steps": 20, "rounds": 3},
    "small": {"steps": 8, "rounds": 3},
    "paper": {"steps": 20, "rounds": 5},
}
TITLE = "Table 7: estimators of the Hessian in IVON."
WORDS = (
    "All have the hyperparameters of IVON in Table 2; whether the paper chose others for SG and GGN is not "
    "known. SG is the squared gradient of the mini-batch, as the paper's text has it, and ess times that, as "
    "the official package has it. Time (of the processor on a CPU, of the clock on a GPU) and peak memory of "
    "a step: measured side by side, as in Table 6. Of the paper's values only the memory was recovered."
)
COLUMNS = ["dataset", "model", "method", "seed", "metric", "value"]


def estimator_training(estimator: str, seed: int, scale: Scale) -> TrainSpec:
    """Table 2's training of IVON with another estimator; that of the reparameterisation is Table 2's own."""
    spec = in_domain_training("ivon", seed, scale)
    return spec.model_copy(update={"method": spec.method.model_copy(update={"hess_approx": estimator})})


def looks(scale: Scale) -> list[tuple[str, EvalSpec]]:
    """Estimator and evaluation, the whole table with one seed before the next."""
    return [
        (name, EvalSpec(train=estimator_training(name, seed, scale), draws=TEST_DRAWS["ivon"]))
        for seed in SEEDS[scale]
        for name in ESTIMATORS
    ]


def costs(scale: Scale) -> list[CostSpec]:
    """All estimators in turns, for each seed once."""
    return [
        CostSpec(compared=tuple(estimator_training(name, seed, scale) for name in ESTIMATORS), **TURNS[scale])
        for seed in SEEDS[scale]
    ]


def _runs(scale: Scale) -> list[EvalSpec | CostSpec]:
    return [*costs(scale), *(spec for _, spec in looks(scale))]


def frame(scale: Scale, store: Store) -> pd.DataFrame:
    """dataset, model, method, seed, metric, value: quality, time (ms, median) and memory (MB) of a step."""
    import pandas as pd

    from experiments.cost.frames import cost_frame
    from experiments.image_classification.frames import metrics_frame

    parts = [metrics_frame([spec], store).assign(method=ESTIMATORS[name]) for name, spec in looks(scale)]
    for spec in costs(scale):
        cost = cost_frame(spec, list(ESTIMATORS.values()), store)
        in_mb = cost["value"].where(cost["metric"] != MEMORY.name, 1e3 * cost["value"])
        parts.append(cost.assign(seed=spec.compared[0].seed, value=in_mb))
    filled = [part[COLUMNS] for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=COLUMNS)


def _render(scale: Scale, store: Store, folder: Path) -> list[Path]:
    from experiments.cost.frames import pair_of
    from experiments.image_classification.frames import measured, published
    from plots import table_figure, tables

    specs = _runs(scale)
    ours = measured(frame(scale, store), "table7", scale)
    paper = published("table7").replace({"method": PUBLISHED_AS})
    memory = replace(MEMORY, digits=1) if scale == "demo" else MEMORY  # a few MB
    metrics = {metric.name: metric for metric in (*(METRICS[name] for name in QUALITY), STEP, memory)}
    short = caption(TITLE, scale, specs, store, title_of=lambda train: ESTIMATORS[train.method.hess_approx])
    rows = tables.make_table(
        ours,
        paper,
        metrics,
        pairs=[pair_of(specs[0].trainings[0])],
        methods=list(ESTIMATORS.values()),
    )
    return [
        *tables.write_table(folder / "table7", rows, f"{short} {WORDS}"),
        *table_figure.draw(
            ours, paper, metrics, folder / "table7_figure", short, methods=list(ESTIMATORS.values())
        ),
    ]


TABLE7 = Artefact(
    name="table7",
    title=TITLE,
    runs=_runs,
    render=_render,
)
