"""What every specification has: strict validation, an `id` that is a hash of its canonical JSON, and what the
commands ask of any kind of run.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from baselines import METHODS

if TYPE_CHECKING:
    from experiments.engine.distributed import Group
    from experiments.engine.spec.training import Training
    from experiments.engine.watch import Watch


def nearest(name: str, known: list[str]) -> str:
    """`; did you mean ...?` or `; known: ...` for a message about an unknown name."""
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def known_name(name: str, known: list[str]) -> str:
    if name not in known:
        raise ValueError(f"unknown; {nearest(name, known)}")
    return name


def digest(spec: dict[str, Any]) -> str:
    """The id of a specification that is given as a record has it."""
    canonical = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Source(Protocol):
    """Data that a run reads."""

    @property
    def title(self) -> str: ...

    def check(self, root: Path) -> None:
        """UserError if the user has to bring them and they are not below the data root."""
        ...

    def fetch(self, root: Path) -> None:
        """Bring them below the data root, if they are not there."""
        ...

    def where(self, root: Path) -> str:
        """In words where they are, or where they come from."""
        ...

    def folder_below(self, root: Path) -> str | None:
        """The folder that holds them, from the data root; None where there is none."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What the time of a run depends on: it is that of one unit, measured on a run that is alike, times
    `units`.

    `alike` names what makes runs equally fast, the thing that matters least last: without it a run is taken
    for want of a better one.
    """

    units: float
    unit: str  # "step of resnet20"
    alike: tuple[Hashable, ...]
    weight: int = 1  # how many times as long a unit takes as the lightest alike: the draws of a step
    teaches: bool = True  # False: `units` may be more than what was done, so nothing is learnt from it


class Spec(BaseModel, ABC):
    """What all specifications share. A kind of run is a subclass, and a line in KINDS."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    experiment: ClassVar[str]  # the folder of its records

    @cached_property
    def id(self) -> str:
        return digest(self.model_dump(mode="json"))

    # Whoever copies is about to change a field, so the copy has to find its own id.
    def __copy__(self) -> Self:
        return self._without_id(super().__copy__())

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self._without_id(super().__deepcopy__(memo))

    def _without_id(self, copied: Self) -> Self:
        copied.__dict__.pop("id", None)
        return copied

    @property
    @abstractmethod
    def label(self) -> str:
        """A few words for progress lines."""

    @property
    def requires(self) -> tuple[Spec, ...]:
        """The runs that have to be done before."""
        return ()

    @property
    @abstractmethod
    def trainings(self) -> tuple[Training, ...]:
        """Those that the run is about."""

    @abstractmethod
    def with_trainings(self, change: Callable[[Training], Training]) -> Spec:
        """The same run about changed trainings."""

    @property
    def sources(self) -> tuple[Source, ...]:
        """The data that it reads."""
        return tuple(source for training in self.trainings for source in training.sources)

    @property
    @abstractmethod
    def effort(self) -> float:
        """Work relative to other runs of an artefact, for the time left: of images, about a pass over one."""

    @property
    def pace(self) -> Pace | None:
        """What its time depends on; None if it takes a second."""
        return None

    @abstractmethod
    def carry_out(self, folder_of: Callable[[Spec], Path], group: Group, watch: Watch) -> dict[str, Any]:
        """Run it in its folder; returns what the record says. What it requires lies in folders of its own."""


def shortened(text: str, most: int = 100) -> str:
    """`text` in one line that is no longer than that."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def one_line(error: ValidationError, kinds: Collection[str] = ()) -> str:
    """The first complaint of pydantic in one line: field, value, what is allowed."""
    first = error.errors()[0]
    # Into the place within a union pydantic puts the member's tag, which is none of the fields.
    place = ".".join(str(part) for part in first["loc"] if part not in kinds and part not in METHODS)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"{place}: no such field"
    value = first["input"]
    shown = "" if isinstance(value, dict | BaseModel) else f"{shortened(repr(value))}: "
    return f"{place or 'specification'}: {shown}{message[0].lower()}{message[1:]}"
