"""What all trainings share, and the training of one image classifier."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import partial, reduce
from operator import eq, or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from baselines import METHODS
from experiments.data import DATASETS
from experiments.engine.spec.base import Pace, Source, Spec, known_name
from experiments.models import MODELS

if TYPE_CHECKING:
    from experiments.engine.distributed import Group
    from experiments.engine.record import Store
    from experiments.engine.train import Task
    from experiments.engine.watch import Watch

VARIED = (
    "damping",
    "mc_samples",
    "hess_approx",
    "kl_reduction",
)  # fields of a method of which artefacts try several values
MethodSettings = Annotated[reduce(or_, METHODS.values()), Field(discriminator="name")]  # type: ignore[valid-type]


class Training(Spec):
    """One training of one network by one method; several processes may share it."""

    method: MethodSettings
    batch_size: Annotated[int, Field(ge=1)]  # over all devices
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @field_validator("method", mode="before")
    @classmethod
    def _method_is_known(cls, method: Any) -> Any:
        if isinstance(method, dict):
            known_name(str(method.get("name")), list(METHODS))
        return method

    batch_fields: ClassVar[tuple[str, ...]]  # what decides network and batches, beside the method

    @property
    @abstractmethod
    def rounds(self) -> int:
        """The parts of the training, each ended by a look at the network: epochs."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Updates in the whole training."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """How many weights the network has."""

    @property
    @abstractmethod
    def network_name(self) -> str:
        """The network, in a word or two."""

    @property
    def devices(self) -> int:
        """GPUs over which a cluster spreads it."""
        return 1

    def not_shared_by(self, processes: int) -> str:
        """Why so many processes cannot share it; empty if they can."""
        if processes > 1 and self.method.double_backward:
            return f"method {self.method.name!r} runs on one device only"
        if self.batch_size % processes:
            return f"must divide batch_size {self.batch_size}"
        return ""

    @abstractmethod
    def begin(self, group: Group) -> Task:
        """The training before its first step."""

    @classmethod
    def forecast(cls, specs: list[Self], stores: list[Store]) -> Iterable[str]:
        """What else a plan says of these trainings; the records in `stores` tell of others like them."""
        return ()

    @property
    def trainings(self) -> tuple[Training, ...]:
        return (self,)

    def with_trainings(self, change: Callable[[Training], Training]) -> Training:
        return change(self)

    @property
    def step_draws(self) -> int:
        """Passes over the batch of a step, each with weights of its own."""
        return getattr(self.method, "mc_samples", 1)

    @property
    def method_label(self) -> str:
        """The method, with what artefacts vary of it: "ivon lr=0.1 hess_approx=ggn"."""
        fields = type(self.method).model_fields
        values = {name: getattr(self.method, name) for name in VARIED if name in fields}
        changed = [f"{name}={value}" for name, value in values.items() if value != fields[name].default]
        return " ".join((self.method.name, f"lr={self.method.lr:g}", *changed))

    @property
    def pace(self) -> Pace:
        draws = f" with {self.step_draws} draws" if self.step_draws > 1 else ""
        return Pace(
            units=self.steps,
            unit=f"step of {self.network_name}{draws}",
            alike=("step", *self._alike, self.method.name),
            weight=self.step_draws,
        )

    @property
    @abstractmethod
    def _alike(self) -> tuple[str | int | None, ...]:
        """What, beside the method, makes steps equally fast."""

    def carry_out(self, folder_of: Callable[[Spec], Path], group: Group, watch: Watch) -> dict[str, Any]:
        from experiments.engine.train import train

        return train(self, folder_of(self), group, watch)


class TrainSpec(Training):
    """One training of one image classifier."""

    experiment: ClassVar[str] = "image_classification"

    batch_fields: ClassVar[tuple[str, ...]] = (
        "dataset",
        "holdout",
        "model",
        "width",
        "batch_size",
        "precision",
        "seed",
    )

    kind: Literal["train"] = "train"
    protocol: Literal[2] = 2
    dataset: str
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # part of the training set kept aside and evaluated on
    model: str
    width: Annotated[int, Field(ge=1)] | None = None  # None: the paper's width
    epochs: Annotated[int, Field(ge=1)] = 200  # Sec. C.2
    warmup_epochs: Annotated[int, Field(ge=0)] = 5
    cosine_epochs: Annotated[int, Field(ge=1)] | None = None  # from the warm-up on; None: as many as epochs
    batch_size: Annotated[int, Field(ge=1)] = 50
    # Equal parts of a batch, each with draws of its own (`method.sync`), which processes divide among them.
    # Left out of ids while there is one, as it came after the first records.
    shares: Annotated[int, Field(ge=1, exclude_if=partial(eq, 1))] = 1
    curve_every: Annotated[int, Field(ge=1)] = 10  # epochs between two points of the curves

    @field_validator("dataset")
    @classmethod
    def _dataset_is_known(cls, name: str) -> str:
        return known_name(name, list(DATASETS))

    @field_validator("model")
    @classmethod
    def _model_is_known(cls, name: str) -> str:
        return known_name(name, list(MODELS))

    @model_validator(mode="after")
    def _batch_fits(self) -> Self:
        if self.batch_size > self.train_size:
            raise ValueError(f"batch_size {self.batch_size} exceeds the {self.train_size} training examples")
        if self.batch_size % self.shares:
            raise ValueError(f"shares {self.shares} must divide batch_size {self.batch_size}")
        if self.shares > 1 and not getattr(self.method, "sync", False):
            raise ValueError(f"shares {self.shares}: more than 1 only for a method with sync true")
        return self

    def not_shared_by(self, processes: int) -> str:
        why_not = super().not_shared_by(processes)
        if not why_not and self.method.draws_by_process and self.shares % processes:
            # Otherwise the number of draws in a step would be that of the processes.
            why_not = f"must divide shares {self.shares}, the parts of a batch with draws of their own"
        return why_not

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
    def rounds(self) -> int:
        return self.epochs

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def parameters(self) -> int:
        import torch

        data = DATASETS[self.dataset]
        with torch.device("meta"):  # takes no memory for them
            model = MODELS[self.model].build(
                data.num_classes, in_channels=data.channels, width=self.width, side=data.side
            )
        return sum(p.numel() for p in model.parameters())

    @property
    def network_name(self) -> str:
        return self.model + (f" (width {self.width})" if self.width else "")

    @property
    def devices(self) -> int:
        return DATASETS[self.dataset].devices

    @property
    def sources(self) -> tuple[Source, ...]:
        return (DATASETS[self.dataset],)

    @property
    def effort(self) -> float:
        return 3.0 * self.epochs * self.train_size * self.step_draws

    @property
    def curve_share(self) -> float:
        """What the looks at the point estimate for the curves add to the training, as a part of it; at most:
        a pass over an image is counted as a third of a step on it, and it is faster without gradients.
        """
        points = -(-self.epochs // self.curve_every)  # the last epoch always has one
        data = DATASETS[self.dataset]
        images = data.train_size - self.train_size if self.holdout else data.test_size
        return points * images / self.effort

    @classmethod
    def forecast(cls, specs: list[Self], stores: list[Store]) -> Iterable[str]:
        if specs:
            looks = sum(spec.curve_share * spec.effort for spec in specs)
            share = looks / sum(spec.effort for spec in specs)
            yield f"curves: their looks at the test images add at most {share:.1%} to these trainings"

    @property
    def label(self) -> str:
        return f"{self.method_label} {self.dataset} {self.model} seed {self.seed}"

    @property
    def _alike(self) -> tuple[str | int | None, ...]:
        return (self.dataset, self.model, self.width, self.batch_size, self.precision)

    def begin(self, group: Group) -> Task:
        from experiments.engine.image_training import ImageTraining

        return ImageTraining(self, group)
