"""The 15 corruptions of CIFAR-10-C (Hendrycks and Dietterich 2019, arXiv 1903.12261), severities 1 to 5.

`open_corrupted` takes the published arrays where the data root has them (`archive`) and makes the images
otherwise. What is made follows the published definitions and the parameters published for CIFAR; the random
draws are other ones, and the photographs of frost, which are not ours, are replaced by a drawn texture
(`textures`). Importing this is cheap: the corruptions are imported when called.

Lengths in the published parameters are pixels of images of side 32 and are used as they are for every side,
so on the 8x8 digits the same severity does more; only `zoom_blur` at severity 1 leaves those unchanged.
`WITHOUT_LENGTHS` are those that mean the same for every side.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.data.corruptions.source import (
    LABELS,
    CorruptedImages,
    Origin,
    check_published,
    published_folder,
)
from experiments.data.provenance import note
from experiments.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from experiments.data.batches import DeviceImages

__all__ = [
    "CORRUPTIONS",
    "SEVERITIES",
    "WITHOUT_LENGTHS",
    "CorruptedImages",
    "Corruption",
    "corrupt",
    "corrupted_source",
    "open_corrupted",
]

SEVERITIES = (1, 2, 3, 4, 5)
CHUNK = 500  # images corrupted at once, from one random stream; another number gives other images


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """One corruption: its name, as in the published files, its title, and the module here that makes it."""

    name: str
    title: str
    kind: str  # noise, blur, weather or digital


CORRUPTIONS: dict[str, Corruption] = {
    name: Corruption(name=name, title=title, kind=kind)
    for kind, members in {
        "noise": {
            "gaussian_noise": "Gaussian noise",
            "shot_noise": "Shot noise",
            "impulse_noise": "Impulse noise",
        },
        "blur": {
            "defocus_blur": "Defocus blur",
            "glass_blur": "Glass blur",
            "motion_blur": "Motion blur",
            "zoom_blur": "Zoom blur",
        },
        "weather": {"snow": "Snow", "frost": "Frost", "fog": "Fog", "brightness": "Brightness"},
        "digital": {
            "contrast": "Contrast",
            "elastic_transform": "Elastic",
            "pixelate": "Pixelate",
            "jpeg_compression": "JPEG",
        },
    }.items()
    for name, title in members.items()
}

# They look at one pixel, or at the whole image: noise, light, and the clouds of fog, which span the image.
# For the others small images could be enlarged, corrupted and reduced again, but that would average away what
# they do to fine detail, as most of them do.
WITHOUT_LENGTHS = ("gaussian_noise", "shot_noise", "impulse_noise", "fog", "brightness", "contrast")


def corrupt(images: np.ndarray, name: str, severity: int, *, seed: int = 0) -> np.ndarray:
    """Corrupted copies of uint8 images (N, S, S, C) with 1 or 3 channels.

    What happens to an image depends on seed, corruption, severity and its place, not on how many follow it;
    under another version of numpy the random draws may be others.
    """
    import numpy as np

    _check(name, severity)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != images.shape[2]:
        raise ValueError(f"images must be uint8 (N, S, S, C), not {images.dtype} {images.shape}")
    if images.shape[3] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, not {images.shape[3]}")
    make = getattr(import_module(f"experiments.data.corruptions.{CORRUPTIONS[name].kind}"), name)
    result = np.empty_like(images)
    for first in range(0, len(images), CHUNK):
        part = images[first : first + CHUNK]
        whole = np.zeros((CHUNK, *images.shape[1:]), dtype=np.uint8)
        whole[: len(part)] = part
        rng = np.random.default_rng([seed, zlib.crc32(name.encode()), severity, first])
        result[first : first + CHUNK] = make(whole, severity, rng)[: len(part)]
    return result


def corrupted_source(dataset: str, root: Path | None = None, *, origin: Origin = "any") -> str:
    """Where the images of `open_corrupted` come from, for captions: "published" or "made"."""
    from experiments.data import data_root

    if origin != "any":
        return origin
    return "published" if published_folder(root or data_root(), dataset) else "made"


def open_corrupted(
    dataset: str,
    corruptions: Sequence[str],
    severity: int,
    *,
    device: torch.device | str,
    first: int | None = None,
    root: Path | None = None,
    origin: Origin = "any",
) -> DeviceImages:
    """The test images of a set that is held in memory under one corruption after the other, with their
    labels, ready for batches.

    They are normalised like the clean ones. first: of each corruption only so many images, from the start.
    origin: whether they are those of the archive, UserError if that is not there, or made although it is.
    """
    import numpy as np

    from experiments.data import DATASETS, data_root
    from experiments.data.batches import DeviceImages

    for name in corruptions:
        _check(name, severity)
    info, root = DATASETS[dataset], root or data_root()
    CorruptedImages(dataset=dataset, origin=origin, corruptions=tuple(corruptions)).check(root)
    folder = published_folder(root, dataset)
    if folder and origin != "made":
        from experiments.data.corruptions.archive import read_published

        found = check_published(root, folder)
        note(folder.name, lambda: found)
        parts = [read_published(folder, name, severity) for name in corruptions]
        images = np.concatenate([some[:first] for some, _ in parts])
        labels = np.concatenate([some[:first] for _, some in parts])
        if labels.min() < 0 or labels.max() >= info.num_classes:
            raise UserError(
                f"{folder / LABELS}: labels must be 0..{info.num_classes - 1}, "
                f"found {labels.min()}..{labels.max()}"
            )
    else:
        arrays = info.load(root)
        clean = arrays.test_images[:first]
        images = np.concatenate([corrupt(clean, name, severity) for name in corruptions])
        labels = np.tile(arrays.test_labels[:first], len(corruptions))
    return DeviceImages(images, labels, device=device, mean=info.mean, std=info.std)


def _check(name: str, severity: int) -> None:
    if name not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {name!r}; known: {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity = {severity!r}; it must be 1, 2, 3, 4 or 5")
