"""What is known about a data set before it is read, and what reading it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.data.provenance import place_in_words
from experiments.errors import UserError

if TYPE_CHECKING:  # plans and tables need the facts below, not numpy
    import numpy as np

IMAGENET_MEAN = (
    0.485,
    0.456,
    0.406,
)  # the paper's code uses them for the CIFAR sets too
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class ArraySplits:
    """A data set in memory, in its own order: images uint8 (N, H, W, C), labels int64 (N,)."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """The facts of one data set of labelled images.

    mean, std: per channel, of pixels in [0, 1]; a network sees (pixel - mean) / std.
    crop_padding: zero pixels on each side before a random crop of the original side length (0: no crops).
    flip: whether half of the training images are mirrored.
    streaming: too large for memory, read through `open_split` only.
    check: takes a data root; raises UserError if the user has to bring the data and it is not there.
    load: takes a data root; downloads what is missing and may be downloaded.
    folder: below the data root; None if there is nothing on disk.
    devices: GPUs over which a cluster spreads one training of the paper's.
    """

    name: str
    title: str
    num_classes: int
    train_size: int
    test_size: int
    side: int
    channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop_padding: int
    flip: bool = True
    streaming: bool = False
    folder: str | None = None
    devices: int = 1
    check: Callable[[Path], None]
    load: Callable[[Path], ArraySplits]

    def fetch(self, root: Path) -> None:
        """Download the set, unless it is there or the user has to bring it."""
        if self.folder and not self.streaming and not (root / self.folder).exists():
            self.load(root)

    def folder_below(self, _root: Path) -> str | None:
        return self.folder

    def where(self, root: Path) -> str:
        """In words, for plans."""
        try:
            self.check(root)
        except UserError as error:
            return f"{'UNUSABLE' if self.folder and (root / self.folder).exists() else 'MISSING'}: {error}"
        if self.folder is None:
            return "comes with a dependency"
        if (root / self.folder).exists():
            return f"found in {place_in_words(root / self.folder)}"
        return f"not in {root}; it is fetched before the first run"
