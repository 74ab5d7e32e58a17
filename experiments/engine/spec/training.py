"""One training of one image classifier."""

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from baselines import METHODS
from experiments.data import DATASETS
from experiments.engine.spec.base import Spec, known_name
from experiments.models import MODELS

if TYPE_CHECKING:
    from experiments.engine.spec import AnySpec

MethodSettings = Annotated[reduce(or_, METHODS.values()), Field(discriminator="name")]  # type: ignore[valid-type]


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
