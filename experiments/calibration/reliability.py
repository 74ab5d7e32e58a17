"""Reliability diagrams of all methods of Table 2, mixtures included (ours): other looks at its records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.engine.artefact import Artefact, Scale
from experiments.engine.record import Store
from experiments.engine.spec import EvalSpec, MixtureSpec
from experiments.image_classification.captions import caption
from experiments.in_domain.table2 import TABLE2

if TYPE_CHECKING:
    from experiments.image_classification.frames import Look


def _runs(scale: Scale) -> list[Look]:
    return [spec for spec in TABLE2.runs(scale) if isinstance(spec, EvalSpec | MixtureSpec)]


def _draw(scale: Scale, store: Store, folder: Path) -> list[Path]:
    from experiments.image_classification.frames import measured, reliability_frame
    from plots import reliability_panels

    specs = _runs(scale)
    frame = measured(reliability_frame(specs, store), "reliability", scale)
    words = caption("Reliability diagrams of the methods of Table 2.", scale, specs, store)
    return reliability_panels.draw(frame, folder / "reliability", words)


RELIABILITY = Artefact(
    name="reliability",
    title="Reliability diagrams of the methods of Table 2 (ours).",
    runs=_runs,
    render=_draw,
)
