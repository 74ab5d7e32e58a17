"""Table 1 and its full grid, Tables 8, 9 and 10: accuracy and uncertainty of IVON beside AdamW, AdaHessian
and SGD.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.data import DATASETS
from experiments.engine.artefact import Artefact, Scale
from experiments.engine.claims import Claim
from experiments.engine.record import Store
from experiments.engine.spec import EvalSpec
from experiments.image_classification.captions import caption
from experiments.image_classification.departures import departures
from experiments.image_classification.grid import (
    GRID_METHODS,
    GRID_SEEDS,
    SEEDS,
    TABLE1_METHODS,
    TABLE1_PAIRS,
    cells,
    grid_pairs,
)
from experiments.image_classification.methods import CIFAR, RERUN, RERUN_LR
from experiments.metrics import METRICS
from experiments.models import MODELS

if TYPE_CHECKING:
    from experiments.image_classification.frames import Look

COLUMNS = ("top1_acc", "top5_acc", "nll", "ece", "brier")
BETTER = tuple(
    Claim(method="IVON", peer=peer, metric=metric)
    for peer in ("AdamW", "SGD")
    for metric in ("top1_acc", "nll", "ece")
)


def _table1(scale: Scale) -> list[EvalSpec]:
    return cells(TABLE1_PAIRS[scale], TABLE1_METHODS, SEEDS[scale], scale)


def _grid(dataset: str, scale: Scale) -> list[EvalSpec]:
    return cells(grid_pairs(dataset, scale), GRID_METHODS, GRID_SEEDS[scale], scale)


def table(
    name: str,
    title: str,
    runs: Callable[[Scale], Sequence[Look]],
    claims: tuple[Claim, ...] = BETTER,
    words: Callable[[Scale], str] = lambda _: "",
) -> Artefact:
    """A table of metrics beside the paper's, and the same as a figure; `words` go under both."""

    def render(scale: Scale, store: Store, folder: Path) -> list[Path]:
        from experiments.image_classification.frames import (
            measured,
            methods_of,
            metrics_frame,
            pairs_of,
            published,
            rows_of,
        )
        from plots import table_figure, tables

        specs = runs(scale)
        ours, paper = measured(metrics_frame(specs, store), name, scale), published(name)
        metrics = {key: METRICS[key] for key in COLUMNS}
        methods = methods_of(specs)
        below = caption(f"{title} {words(scale)}".strip(), scale, specs, store)
        below += departures(name, scale, ours, paper, metrics)
        rows = tables.make_table(
            ours, paper, metrics, pairs=pairs_of(specs), methods=methods, rows=rows_of(specs)
        )
        return [
            *tables.write_table(folder / name, rows, below),
            *table_figure.draw(ours, paper, metrics, folder / f"{name}_figure", below, methods=methods),
        ]

    return Artefact(name=name, title=title, runs=runs, render=render, claims=claims)


def _of_digits(scale: Scale) -> str:
    """The demo has one data set for three tables."""
    return "" if scale != "demo" else "At this scale Tables 8, 9 and 10 are the same runs."


def _of_two_rates(scale: Scale) -> str:
    """Which learning rate AdamW has where there are two."""
    if scale != "paper":
        return ""
    first, (dataset, model) = CIFAR["adamw"].lr, RERUN
    return (
        f"AdamW with {MODELS[model].title} on {DATASETS[dataset].title} has the learning rate {RERUN_LR:g}, "
        f"and a row of its own with {first:g}, its rate everywhere else but on ImageNet. The paper ran it "
        "again as it did not converge with that one; its second rate is not known, and this one is ours."
    )


TABLES = (
    table("table1", "Table 1: IVON against AdamW and SGD.", _table1, words=_of_two_rates),
    table("table8", "Table 8: optimizers on CIFAR-10.", partial(_grid, "cifar10"), words=_of_digits),
    table("table9", "Table 9: optimizers on CIFAR-100.", partial(_grid, "cifar100"), words=_of_digits),
    table(
        "table10",
        "Table 10: optimizers on TinyImageNet.",
        partial(_grid, "tinyimagenet"),
        words=lambda scale: _of_digits(scale) or _of_two_rates(scale),
    ),
)
