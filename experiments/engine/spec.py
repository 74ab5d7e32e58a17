"""What a run is: frozen, validated data. Its `id` is a hash of its canonical JSON, and decides what is the
same run.

Device, number of processes, `--jobs` and launcher are not part of a specification and do not change its
result. `protocol` is raised by hand when code changes results.
"""

import hashlib
import json
from collections.abc import Callable
from difflib import get_close_matches
from functools import reduce
from operator import or_
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from baselines import METHODS
from experiments.data import DATASETS
from experiments.errors import UserError
from experiments.models import MODELS

MethodSettings = Annotated[reduce(or_, METHODS.values()), Field(discriminator="name")]  # type: ignore[valid-type]


def nearest(name: str, known: list[str]) -> str:
    """`; did you mean ...?` or `; known: ...` for a message about an unknown name."""
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def known_name(name: str, known: list[str]) -> str:
    if name not in known:
        raise ValueError(f"unknown; {nearest(name, known)}")
    return name


class Spec(BaseModel):
    """What all specifications share."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    experiment: ClassVar[str]  # the folder of its records

    @property
    def id(self) -> str:
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class TrainSpec(Spec):
    """One training of one image classifier."""

    experiment: ClassVar[str] = "image_classification"

    kind: Literal["train"] = "train"
    protocol: Literal[1] = 1
    dataset: str
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # part of the training set kept aside and evaluated on
    model: str
    width: Annotated[int, Field(ge=1)] | None = None  # None: the paper's width
    method: MethodSettings
    epochs: Annotated[int, Field(ge=1)] = 200  # Sec. C.2
    warmup_epochs: Annotated[int, Field(ge=0)] = 5
    cosine_epochs: Annotated[int, Field(ge=1)] | None = None  # length of the cosine; None: all epochs (D6)
    batch_size: Annotated[int, Field(ge=1)] = 50  # over all devices
    precision: Literal["fp32", "bf16"] = "fp32"
    curve_every: Annotated[int, Field(ge=1)] = 10  # epochs between two points of the curves
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @field_validator("dataset")
    @classmethod
    def _dataset_is_known(cls, name: str) -> str:
        return known_name(name, list(DATASETS))

    @field_validator("model")
    @classmethod
    def _model_is_known(cls, name: str) -> str:
        return known_name(name, list(MODELS))

    @field_validator("method", mode="before")
    @classmethod
    def _method_is_known(cls, method: Any) -> Any:
        if isinstance(method, dict):
            known_name(str(method.get("name")), list(METHODS))
        return method

    @model_validator(mode="after")
    def _batch_fits(self) -> "TrainSpec":
        if self.batch_size > self.train_size:
            raise ValueError(f"batch_size {self.batch_size} exceeds the {self.train_size} training examples")
        return self

    @property
    def train_size(self) -> int:
        """Number of training examples after the held-out part is taken away."""
        size = DATASETS[self.dataset].train_size
        return size - round(size * self.holdout)

    @property
    def steps_per_epoch(self) -> int:
        return self.train_size // self.batch_size

    @property
    def evaluated_split(self) -> Literal["test", "held"]:
        """Curves and metrics come from the test set, or, while tuning, from the held-out training images."""
        return "held" if self.holdout else "test"

    @property
    def requires(self) -> tuple["AnySpec", ...]:
        """The runs that have to be done before."""
        return ()

    @property
    def trainings(self) -> tuple["TrainSpec", ...]:
        """Those that the run is about."""
        return (self,)

    @property
    def label(self) -> str:
        """A few words for progress lines."""
        return f"{self.method.name} {self.dataset} {self.model} seed {self.seed}"


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


AnySpec = TrainSpec | EvalSpec | MixtureSpec
_ADAPTER: TypeAdapter[AnySpec] = TypeAdapter(Annotated[AnySpec, Field(discriminator="kind")])


def parse_spec(data: dict[str, Any]) -> AnySpec:
    """The specification that `model_dump` turned into `data`; UserError in one line otherwise."""
    try:
        # JSON, because strict validation accepts from JSON what JSON cannot say more exactly.
        return _ADAPTER.validate_json(json.dumps(data))
    except ValidationError as error:
        raise UserError(one_line(error)) from None


def one_line(error: ValidationError) -> str:
    """The first complaint of pydantic in one line: field, value, what is allowed."""
    first = error.errors()[0]
    place = ".".join(
        str(part) for part in first["loc"] if part not in ("train", "evaluate", "mixture", *METHODS)
    )
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"{place}: no such field"
    value = first["input"]
    shown = "" if isinstance(value, dict | BaseModel) else f"{value!r}: "
    return f"{place or 'specification'}: {shown}{message[0].lower()}{message[1:]}"
