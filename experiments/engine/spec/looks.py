"""Looks at trained classifiers: one on test images, a mixture of several, one on images from elsewhere."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from experiments.data import DATASETS
from experiments.data.ood import OOD_SETS
from experiments.engine.spec.base import Spec, known_name
from experiments.engine.spec.training import TrainSpec

if TYPE_CHECKING:
    from experiments.engine.spec import AnySpec


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
    def requires(self) -> tuple["AnySpec", ...]:
        return (self.train,)

    @property
    def trainings(self) -> tuple[TrainSpec, ...]:
        return (self.train,)

    def with_trainings(self, change: Callable[[TrainSpec], TrainSpec]) -> "EvalSpec":
        return self.model_copy(update={"train": change(self.train)})

    @property
    def label(self) -> str:
        return f"evaluate {self.train.label}" + (f" ({self.draws} draws)" if self.draws else "")


class MixtureSpec(Spec):
    """The mean of what several trained classifiers predict: a deep ensemble, or a mixture of posteriors."""

    experiment: ClassVar[str] = "image_classification"

    kind: Literal["mixture"] = "mixture"
    protocol: Literal[1] = 1
    members: Annotated[tuple[EvalSpec, ...], Field(min_length=2)]

    @model_validator(mode="after")
    def _of_the_same_images(self) -> "MixtureSpec":
        found = {(spec.train.dataset, spec.train.holdout) for spec in self.members}
        if len(found) > 1:
            raise ValueError(f"members are evaluated on different images: {sorted(found)}")
        return self

    @property
    def images(self) -> int:
        return self.members[0].images

    @property
    def requires(self) -> tuple["AnySpec", ...]:
        return self.members

    @property
    def trainings(self) -> tuple[TrainSpec, ...]:
        return tuple(member.train for member in self.members)

    def with_trainings(self, change: Callable[[TrainSpec], TrainSpec]) -> "MixtureSpec":
        return self.model_copy(update={"members": tuple(m.with_trainings(change) for m in self.members)})

    @property
    def label(self) -> str:
        return f"mixture of {len(self.members)}: {self.members[0].label}"


class OodSpec(Spec):
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
    def _networks_can_see_it(self) -> "OodSpec":
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
    def requires(self) -> tuple["AnySpec", ...]:
        return (self.look,)

    @property
    def trainings(self) -> tuple[TrainSpec, ...]:
        return (self.look.train,)

    def with_trainings(self, change: Callable[[TrainSpec], TrainSpec]) -> "OodSpec":
        return self.model_copy(update={"look": self.look.with_trainings(change)})

    @property
    def label(self) -> str:
        return f"{self.outside}: {self.look.label}"
