"""What is known about a set of out-of-distribution images before it is read, and what reading it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # plans and tables need the facts below, not numpy
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class OodImages:
    """Images uint8 (N, S, S, C) in a fixed order, and what they are if not the whole set (else None)."""

    images: np.ndarray
    only: str | None = None  # for captions: "the first 1,083 images of the training split"


@dataclass(frozen=True, kw_only=True)
class OodSet:
    """The facts of one set of images that a network was not trained on.

    against: the data sets it is scored against, whose side and channels it has.
    mean, std: per channel of pixels in [0, 1], not those of the training data: the paper's code normalises
        each set by numbers of its own, and where it has some they stand here.
    size: of the whole set.
    origin: a few words for captions.
    check: takes a data root; fetches what is missing and public. UserError if that fails.
    load: takes a data root; the same, and reads the images.
    """

    name: str
    title: str
    against: tuple[str, ...]
    side: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    origin: str
    check: Callable[[Path], None]
    load: Callable[[Path], OodImages]

    def fetch(self, root: Path) -> None:
        """Bring what is public."""
        self.check(root)

    def folder_below(self, _root: Path) -> str | None:
        """None: they are read once, into memory."""
        return None

    def where(self, root: Path) -> str:
        """In words, for plans."""
        return f"images from elsewhere: {self.origin}"
