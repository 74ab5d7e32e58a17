"""What a reader wants to see: a table or a figure, the runs it needs, and how it is drawn from their
records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from experiments.engine.claims import Claim
    from experiments.engine.record import Store
    from experiments.engine.spec import Spec

Scale = Literal["demo", "small", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """`runs(scale)` declares the evaluations and trainings; `render(scale, records, folder)` draws and names
    the files.
    """

    name: str
    title: str
    runs: Callable[[Scale], Sequence[Spec]]
    render: Callable[[Scale, Store, Path], list[Path]]
    scales: tuple[Scale, ...] = SCALES
    claims: tuple[Claim, ...] = ()

    def specs(self, scale: Scale) -> list[Spec]:
        """All runs, each once, a training before the evaluations that need it."""
        return with_required(self.runs(scale))


def with_required(specs: Iterable[Spec]) -> list[Spec]:
    """These runs and all that they need, each once and after what it needs."""
    found: dict[str, Spec] = {}
    _collect(specs, found)
    return list(found.values())


def _collect(specs: Iterable[Spec], found: dict[str, Spec]) -> None:
    for spec in specs:
        if spec.id not in found:
            _collect(spec.requires, found)
            found[spec.id] = spec
