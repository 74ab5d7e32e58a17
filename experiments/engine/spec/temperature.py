"""Temperature scaling of what a trained classifier has predicted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from experiments.engine.spec.base import Spec
from experiments.engine.spec.looks import AnotherLook

if TYPE_CHECKING:
    from experiments.engine.distributed import Group
    from experiments.engine.watch import Watch


class TemperatureSpec(AnotherLook):
    """How well calibrated one temperature makes the predictions of a look (Guo et al. 2017, Sec. 4.2).

    These trainings hold no data out, so each half of the images gets the temperature fitted on the other.
    """

    experiment: ClassVar[str] = "calibration"

    kind: Literal["temperature"] = "temperature"
    protocol: Literal[1] = 1
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0  # of the halves

    @property
    def effort(self) -> float:
        return 0.0

    @property
    def label(self) -> str:
        return f"temperature of {self.look.label}"

    def carry_out(self, folder_of: Callable[[Spec], Path], group: Group, watch: Watch) -> dict[str, Any]:
        from experiments.engine.evaluate_temperature import evaluate_temperature

        return evaluate_temperature(folder_of(self.look), seed=self.seed)
