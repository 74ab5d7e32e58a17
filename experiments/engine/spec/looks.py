"""Looks at trained classifiers: one on test images, a mixture of several, one on images from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from experiments.data import DATASETS
from experiments.data.ood import OOD_SETS
from experiments.engine.spec.base import Pace, Source, Spec, known_name
from experiments.engine.spec.training import Training, TrainSpec

if TYPE_CHECKING:
    from experiments.engine.distributed import Group
    from experiments.engine.watch import Watch

LOOK_EFFORT = 0.2  # of a predictive pass over one image, where a training step on it is 3


class EvalSpec(Spec):
    """One evaluation of one trained classifier: its point estimate, or the average over predictive draws."""

    experiment: ClassVar[str] = "image_classification"

    kind: Literal["evaluate"] = "evaluate"
    protocol: Literal[1] = 1
    train: TrainSpec
    draws: Annotated[int, Field(ge=0)] = 0  # 0: the point estimate (IVON@mean)
    batch_size: Annotated[int, Field(ge=1)] = 512  # new draws for every mini-batch
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0  # of the draws

    @property
    def images(self) -> int:
        """Number of images that are classified."""
        data = DATASETS[self.train.dataset]
        return data.train_size - self.train.train_size if self.train.holdout else data.test_size

    @property
    def passes(self) -> int:
        """Times that it computes what the network says of one image."""
        return self.images * max(1, self.draws)

    @property
    def requires(self) -> tuple[Spec, ...]:
        return (self.train,)

    @property
    def trainings(self) -> tuple[TrainSpec, ...]:
        return (self.train,)

    def with_trainings(self, change: Callable[[Training], Training]) -> Self:
        return self.model_copy(update={"train": change(self.train)})

    @property
    def effort(self) -> float:
        return LOOK_EFFORT * self.passes

    @property
    def pace(self) -> Pace:
        train = self.train
        return Pace(
            units=self.passes,
            unit=f"image and draw of {train.network_name}",
            alike=("pass", train.dataset, train.model, train.width, train.precision, train.method.name),
        )

    @property
    def label(self) -> str:
        return f"evaluate {self.train.label}" + (f" ({self.draws} draws)" if self.draws else "")

    def carry_out(self, folder_of: Callable[[Spec], Path], group: Group, watch: Watch) -> dict[str, Any]:
        from experiments.engine.evaluate import evaluate

        return evaluate(self, folder_of(self.train), group, watch, keep=folder_of(self))


class MixtureSpec(Spec):
    """The mean of what several trained classifiers predict: a deep ensemble, or a mixture of posteriors."""

    experiment: ClassVar[str] = "image_classification"

    kind: Literal["mixture"] = "mixture"
    protocol: Literal[1] = 1
    members: Annotated[tuple[EvalSpec, ...], Field(min_length=2)]

    @model_validator(mode="after")
    def _of_the_same_images(self) -> Self:
        found = {(spec.train.dataset, spec.train.holdout) for spec in self.members}
        if len(found) > 1:
            raise ValueError(f"members are evaluated on different images: {sorted(found)}")
        return self

    @property
    def requires(self) -> tuple[Spec, ...]:
        return self.members

    @property
    def trainings(self) -> tuple[TrainSpec, ...]:
        return tuple(member.train for member in self.members)

    @property
    def effort(self) -> float:
        return 0.0

    def with_trainings(self, change: Callable[[Training], Training]) -> Self:
        return self.model_copy(update={"members": tuple(m.with_trainings(change) for m in self.members)})

    @property
    def label(self) -> str:
        return f"mixture of {len(self.members)}: {self.members[0].label}"

    def carry_out(self, folder_of: Callable[[Spec], Path], group: Group, watch: Watch) -> dict[str, Any]:
        from experiments.engine.evaluate import evaluate_mixture

        return evaluate_mixture([folder_of(member) for member in self.members])


class AnotherLook(Spec):
    """What is seen of the training of a look in another way, or made of what the look has found."""

    look: EvalSpec

    @property
    def requires(self) -> tuple[Spec, ...]:
        return (self.look,)

    @property
    def trainings(self) -> tuple[TrainSpec, ...]:
        return (self.look.train,)

    def with_trainings(self, change: Callable[[Training], Training]) -> Self:
        return self.model_copy(update={"look": self.look.with_trainings(change)})


class OodSpec(AnotherLook):
    """How unsure a trained classifier is on images that show none of its classes, beside the test images."""

    experiment: ClassVar[str] = "ood"

    kind: Literal["ood"] = "ood"
    protocol: Literal[1] = 1
    look: EvalSpec  # on the test images; the other ones get the same number of draws
    outside: str  # of OOD_SETS

    @field_validator("outside")
    @classmethod
    def _outside_is_known(cls, name: str) -> str:
        return known_name(name, list(OOD_SETS))

    @model_validator(mode="after")
    def _networks_can_see_it(self) -> Self:
        against = OOD_SETS[self.outside].against
        if self.look.train.dataset not in against:
            raise ValueError(
                f"outside {self.outside!r} is scored against {' or '.join(against)}, "
                f"not {self.look.train.dataset!r}"
            )
        return self

    @property
    def images(self) -> int:
        return OOD_SETS[self.outside].size

    @property
    def sources(self) -> tuple[Source, ...]:
        return (*super().sources, OOD_SETS[self.outside])

    @property
    def effort(self) -> float:
        return LOOK_EFFORT * self.images * max(1, self.look.draws)

    @property
    def pace(self) -> Pace:
        units = self.images * max(1, self.look.draws)
        return replace(self.look.pace, units=units, teaches=False)  # a part of the set may stand in for it

    @property
    def label(self) -> str:
        return f"{self.outside}: {self.look.label}"

    def carry_out(self, folder_of: Callable[[Spec], Path], group: Group, watch: Watch) -> dict[str, Any]:
        from experiments.engine.evaluate_ood import evaluate_ood

        return evaluate_ood(self, folder_of(self.look.train), folder_of(self.look), group, watch)
