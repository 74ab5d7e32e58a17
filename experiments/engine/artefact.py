"""What a reader wants to see: a table or a figure, the runs it needs, and how it is drawn from their
records.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

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
    for spec in specs:
        for needed in with_required(spec.requires):
            found.setdefault(needed.id, needed)
        found.setdefault(spec.id, spec)
    return list(found.values())
