"""What training steps of several methods cost, measured side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from experiments.engine.spec.base import Pace, Spec
from experiments.engine.spec.language import LanguageSpec
from experiments.engine.spec.training import Training, TrainSpec

if TYPE_CHECKING:
    from experiments.engine.distributed import Group
    from experiments.engine.watch import Watch

Compared = Annotated[TrainSpec | LanguageSpec, Field(discriminator="kind")]


class CostSpec(Spec):
    """Time and memory of a training step: in one process the methods take turns, `rounds` rounds of `steps`
    steps each, after one round that warms up.

    Its record holds measurements, so another run of it gives other numbers. It is over in minutes: when it is
    stopped it starts over. What else runs on a GPU slows all methods alike, so ratios stand it better than
    seconds: leave it the GPU to itself (`--jobs 1`).
    """

    experiment: ClassVar[str] = "cost"

    kind: Literal["cost"] = "cost"
    protocol: Literal[1] = 1
    # Trainings as the tables declare them, none of which is carried out; they differ in their methods, and in
    # schedules where a method has one of its own.
    compared: Annotated[tuple[Compared, ...], Field(min_length=2)]
    steps: Annotated[int, Field(ge=1)] = 20  # in a turn
    rounds: Annotated[int, Field(ge=1)] = 10  # that count

    @model_validator(mode="after")
    def _on_the_same_batches(self) -> Self:
        if len({train.kind for train in self.compared}) > 1:
            raise ValueError("compared: trainings of images and of text have no batches in common")
        for field in self.compared[0].batch_fields:
            found = {getattr(train, field) for train in self.compared}
            if len(found) > 1:
                raise ValueError(f"compared: trainings differ in {field}: {sorted(map(str, found))}")
        return self

    @property
    def trainings(self) -> tuple[Training, ...]:
        return self.compared

    def with_trainings(self, change: Callable[[Training], Training]) -> Self:
        return self.model_copy(update={"compared": tuple(change(train) for train in self.compared)})

    @property
    def all_steps(self) -> int:
        """Those of all methods, warm-up included."""
        return len(self.compared) * self.steps * (self.rounds + 1)

    @property
    def effort(self) -> float:
        first = self.compared[0]
        return first.effort / first.steps * self.all_steps

    @property
    def pace(self) -> Pace:
        first = self.compared[0]
        methods = ", ".join(train.method.name for train in self.compared)
        return Pace(
            units=self.all_steps,
            unit=f"step of {first.network_name}, side by side",
            alike=("cost", *first._alike, methods),
        )

    @property
    def label(self) -> str:
        first = self.compared[0]
        return f"cost of {len(self.compared)} methods on {first.network_name} seed {first.seed}"

    def carry_out(self, folder_of: Callable[[Spec], Path], group: Group, watch: Watch) -> dict[str, Any]:
        from experiments.engine.cost import measure_costs

        return measure_costs(self, group, watch)
