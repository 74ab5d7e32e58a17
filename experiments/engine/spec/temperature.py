"""Temperature scaling of what a trained classifier has predicted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from experiments.engine.spec.base import Spec
from experiments.engine.spec.looks import EvalSpec
from experiments.engine.spec.training import Training, TrainSpec

if TYPE_CHECKING:
    from experiments.engine.distributed import Group
    from experiments.engine.watch import Watch


class TemperatureSpec(Spec):
    """How well calibrated one temperature makes the predictions of a look (Guo et al. 2017, Sec. 4.2).

    These trainings hold no data out, so each half of the images gets the temperature fitted on the other.
    """

    experiment: ClassVar[str] = "calibration"

    kind: Literal["temperature"] = "temperature"
    protocol: Literal[1] = 1
    look: EvalSpec
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0  # of the halves

    @property
    def requires(self) -> tuple[Spec, ...]:
        return (self.look,)

    @property
    def trainings(self) -> tuple[TrainSpec, ...]:
        return (self.look.train,)

    def with_trainings(self, change: Callable[[Training], Training]) -> Self:
        return self.model_copy(update={"look": self.look.with_trainings(change)})

    @property
    def effort(self) -> float:
        return 0.0

    @property
    def label(self) -> str:
        return f"temperature of {self.look.label}"

    def carry_out(self, folder_of: Callable[[Spec], Path], group: Group, watch: Watch) -> dict[str, Any]:
        from experiments.engine.evaluate_temperature import evaluate_temperature

        return evaluate_temperature(folder_of(self.look), seed=self.seed)
