"""Table 1 and its full grid, Tables 8, 9 and 10: accuracy and uncertainty of IVON beside AdamW, AdaHessian
and SGD.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

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
from experiments.metrics import METRICS

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
        )
        from plots import table_figure, tables

        specs = runs(scale)
        ours, paper = measured(metrics_frame(specs, store), name, scale), published(name)
        metrics = {key: METRICS[key] for key in COLUMNS}
        methods = methods_of(specs)
        below = caption(f"{title} {words(scale)}".strip(), scale, specs, store)
        below += departures(name, scale, ours, paper, metrics)
        rows = tables.make_table(ours, paper, metrics, pairs=pairs_of(specs), methods=methods)
        return [
            *tables.write_table(folder / name, rows, below),
            *table_figure.draw(ours, paper, metrics, folder / f"{name}_figure", below, methods=methods),
        ]

    return Artefact(name=name, title=title, runs=runs, render=render, claims=claims)


def _of_digits(scale: Scale) -> str:
    """The demo has one data set for three tables."""
    return "" if scale != "demo" else "At this scale Tables 8, 9 and 10 are the same runs."


TABLES = (
    table("table1", "Table 1: IVON against AdamW and SGD.", _table1),
    table("table8", "Table 8: optimizers on CIFAR-10.", partial(_grid, "cifar10"), words=_of_digits),
    table("table9", "Table 9: optimizers on CIFAR-100.", partial(_grid, "cifar100"), words=_of_digits),
    table(
        "table10", "Table 10: optimizers on TinyImageNet.", partial(_grid, "tinyimagenet"), words=_of_digits
    ),
)
