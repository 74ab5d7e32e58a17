"""One look at a trained classifier for every number of predictive draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import model_validator

from experiments.engine.spec.base import Pace, Spec
from experiments.engine.spec.looks import LOOK_EFFORT, AnotherLook, EvalSpec

if TYPE_CHECKING:
    from experiments.engine.distributed import Group
    from experiments.engine.watch import Watch


class DrawSweepSpec(AnotherLook):
    """How well a trained classifier predicts with 1, 2, 4, ... predictive draws (Fig. 4), in one pass."""

    experiment: ClassVar[str] = "draws"

    kind: Literal["draw_sweep"] = "draw_sweep"
    protocol: Literal[1] = 1
    look: EvalSpec  # its number of draws is the largest of the sweep

    @model_validator(mode="after")
    def _ends_at_a_power_of_two(self) -> Self:
        if self.look.draws < 1 or self.look.draws & (self.look.draws - 1):
            raise ValueError(f"look.draws {self.look.draws} is not a power of two: 1, 2, 4, ...")
        return self

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of draws that are looked at."""
        return tuple(1 << exponent for exponent in range(self.look.draws.bit_length()))

    @property
    def requires(self) -> tuple[Spec, ...]:
        return (self.look.train,)  # not what the look has found

    @property
    def effort(self) -> float:
        return LOOK_EFFORT * self.look.passes

    @property
    def pace(self) -> Pace:
        return replace(self.look.pace, units=self.look.passes)

    @property
    def label(self) -> str:
        return f"by number of draws: {self.look.label}"

    def carry_out(self, folder_of: Callable[[Spec], Path], group: Group, watch: Watch) -> dict[str, Any]:
        from experiments.engine.evaluate_draws import evaluate_draws

        return evaluate_draws(self, folder_of(self.look.train), group, watch)
