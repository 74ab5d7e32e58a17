"""Looks at a trained classifier on corrupted test images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import eq
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from experiments.data import DATASETS
from experiments.data.corruptions import CORRUPTIONS, CorruptedImages
from experiments.data.corruptions.source import FOLDERS, Origin
from experiments.engine.spec.base import Pace, Source, Spec, known_name
from experiments.engine.spec.looks import LOOK_EFFORT, AnotherLook, EvalSpec

if TYPE_CHECKING:
    from experiments.engine.distributed import Group
    from experiments.engine.watch import Watch


class CorruptedSpec(AnotherLook):
    """How well a trained classifier knows the test images under each corruption, at one severity (Fig. 7)."""

    experiment: ClassVar[str] = "corruptions"

    kind: Literal["corrupted"] = "corrupted"
    protocol: Literal[1] = 1
    look: EvalSpec  # network, draws and size of mini-batches; the clean test images are not looked at
    severity: Annotated[int, Field(ge=1, le=5)]
    corruptions: Annotated[tuple[str, ...], Field(min_length=1)] = tuple(CORRUPTIONS)
    images: Annotated[int, Field(ge=1)] | None = None  # the first so many of the test set; None: all
    # Left out of ids while it is "any", as it came after the first records.
    origin: Annotated[Origin, Field(exclude_if=partial(eq, "any"))] = "any"

    @field_validator("corruptions")
    @classmethod
    def _corruptions_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for place, name in enumerate(names):
            known_name(name, list(CORRUPTIONS))
            if name in names[:place]:
                raise ValueError(f"{name!r} stands there twice")
        return names

    @model_validator(mode="after")
    def _images_are_there(self) -> Self:
        data = DATASETS[self.look.train.dataset]
        if data.streaming:
            raise ValueError(
                f"look.train.dataset {data.name!r} is not held in memory and cannot be corrupted"
            )
        if self.images is not None and self.images > data.test_size:
            raise ValueError(f"images {self.images} exceeds the {data.test_size} test images; null takes all")
        return self

    @model_validator(mode="after")
    def _archive_exists(self) -> Self:
        dataset = self.look.train.dataset
        if self.origin == "published" and dataset not in FOLDERS:
            raise ValueError(f"origin 'published': there is no archive for {dataset!r}; allowed: any, made")
        return self

    @property
    def images_each(self) -> int:
        """Number of images under each corruption."""
        return self.images or DATASETS[self.look.train.dataset].test_size

    @property
    def passes(self) -> int:
        """Times that it computes what the network says of one image."""
        return len(self.corruptions) * self.images_each * max(1, self.look.draws)

    @property
    def requires(self) -> tuple[Spec, ...]:
        return (self.look.train,)  # not what the look has found

    @property
    def sources(self) -> tuple[Source, ...]:
        dataset = self.look.train.dataset
        if dataset not in FOLDERS:
            return super().sources
        images = CorruptedImages(dataset=dataset, origin=self.origin, corruptions=self.corruptions)
        return (*super().sources, images)

    @property
    def effort(self) -> float:
        return LOOK_EFFORT * self.passes

    @property
    def pace(self) -> Pace:
        return replace(self.look.pace, units=self.passes, teaches=False)  # its images are made in that time

    @property
    def label(self) -> str:
        return f"severity {self.severity}: {self.look.label}"

    def carry_out(self, folder_of: Callable[[Spec], Path], group: Group, watch: Watch) -> dict[str, Any]:
        from experiments.engine.evaluate_corrupted import evaluate_corrupted

        return evaluate_corrupted(self, folder_of(self.look.train), folder_of(self), group, watch)
