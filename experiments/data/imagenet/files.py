"""The files of ImageNet (ILSVRC 2012): one folder per class in `imagenet/train` and `imagenet/val`."""

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.data.readers.disk import written_whole
from experiments.errors import UserError

NUM_CLASSES = 1000
IMAGE_ENDINGS = (".jpeg", ".jpg")


@dataclass(frozen=True, kw_only=True)
class ImageListing:
    """The images below a folder, sorted; a class's label is the place of its folder in sorted order.

    names are bytes of one width in one array, relative to the folder: a million Python strings would be
    copied into every worker process, since counting references writes to them.
    """

    folder: Path
    names: np.ndarray
    labels: np.ndarray


def check(root: Path) -> None:
    """UserError unless both splits have 1,000 class folders."""
    for split in ("train", "val"):
        folder = root / "imagenet" / split
        found = len(class_folders(folder)) if folder.is_dir() else 0
        if found != NUM_CLASSES:
            raise UserError(
                f"ImageNet: {folder} has {found} class folders, not {NUM_CLASSES}. It cannot be downloaded "
                "without an account: accept its terms at https://image-net.org (or ILSVRC/imagenet-1k on the "
                "Hugging Face Hub), then lay out imagenet/train/<wnid>/*.JPEG and imagenet/val/<wnid>/*.JPEG "
                f"under $IVON_DATA, now {root}"
            )


def class_folders(folder: Path) -> list[os.DirEntry[str]]:
    """Its subfolders, sorted by name."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if e.is_dir() and not e.name.startswith(".")), key=lambda e: e.name)


def list_images(folder: Path) -> ImageListing:
    """The images of one split, from the listing kept beside it if no class folder has changed since.

    Walking through 1.28 million names takes minutes on a network disk, asking 1,000 folders for their time of
    change takes none. Where the disk is read-only the walk is simply repeated.
    """
    classes = class_folders(folder)
    kept = folder.with_name(f"{folder.name}.listing.npz")
    stamp = np.array([f"{entry.name} {entry.stat().st_mtime_ns}" for entry in classes])
    found = _read_listing(kept, stamp)
    if found is None:
        found = _walk(classes)
        try:
            with written_whole(kept) as temporary:
                np.savez(temporary, stamp=stamp, names=found[0], labels=found[1])
        except OSError:
            pass  # a read-only disk
    names, labels = found
    return ImageListing(folder=folder, names=names, labels=labels)


def _read_listing(file: Path, stamp: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            if np.array_equal(kept["stamp"], stamp):
                return kept["names"], kept["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # none yet, or half of one
    return None


def _walk(classes: list[os.DirEntry[str]]) -> tuple[np.ndarray, np.ndarray]:
    names: list[str] = []
    counts: list[int] = []
    for entry in classes:
        with os.scandir(entry) as files:
            found = sorted(f"{entry.name}/{f.name}" for f in files if f.name.lower().endswith(IMAGE_ENDINGS))
        names += found
        counts.append(len(found))
    labels = np.repeat(np.arange(len(classes)), counts)
    return np.array([os.fsencode(name) for name in names], dtype=np.bytes_), labels
