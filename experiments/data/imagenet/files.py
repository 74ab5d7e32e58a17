"""The files of ImageNet (ILSVRC 2012): one folder per class in `imagenet/train` and `imagenet/val`.

To read 150 GB for checksums would take longer than many a run: names and sizes of the images are what is
known of them, and what records have a digest of.
"""

import hashlib
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.data.classes import check_in_their_class, check_none_empty, check_same_classes
from experiments.data.remembered import places, remember
from experiments.errors import RunError, UserError

NUM_CLASSES = 1000
IMAGE_ENDINGS = (".jpeg", ".jpg")


@dataclass(frozen=True, kw_only=True)
class ImageListing:
    """The images below a folder, sorted; a class's label is the place of its folder in sorted order.

    names are bytes of one width in one array, relative to the folder: a million Python strings would be
    copied into every worker process, since counting references writes to them.
    digest: SHA-256 of names and sizes.
    """

    folder: Path
    names: np.ndarray
    labels: np.ndarray
    digest: str


def check(root: Path) -> None:
    """UserError unless both splits have 1,000 class folders, of the same names, and none is empty."""
    found: dict[str, list[str]] = {}
    for split in ("train", "val"):
        folder = root / "imagenet" / split
        entries = class_folders(folder) if folder.is_dir() else []
        if len(entries) != NUM_CLASSES:
            raise UserError(
                f"ImageNet: {folder} has {len(entries)} class folders, not {NUM_CLASSES}. It cannot be "
                "downloaded without an account: accept its terms at https://image-net.org (or "
                "ILSVRC/imagenet-1k on the Hugging Face Hub), then lay out imagenet/train/<wnid>/*.JPEG and "
                f"imagenet/val/<wnid>/*.JPEG under $IVON_DATA, now {root}"
            )
        found[split] = [entry.name for entry in entries]
        check_none_empty(folder, {entry.name: any(True for _ in _images(entry)) for entry in entries})
    check_same_classes(root / "imagenet" / "val", found["val"], root / "imagenet" / "train", found["train"])


def class_folders(folder: Path) -> list[os.DirEntry[str]]:
    """Its subfolders, sorted by name."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if e.is_dir() and not e.name.startswith(".")), key=lambda e: e.name)


def list_images(folder: Path) -> ImageListing:
    """The images of one split, from the listing that is kept if no class folder has changed since.

    Walking through 1.28 million files takes minutes on a network disk, asking 1,000 folders for their time of
    change takes none. UserError if a class has no image, or an image has another class in its name.
    """
    classes = class_folders(folder)
    kept = folder.with_name(f"{folder.name}.listing.npz")
    stamp = np.array([f"{entry.name} {entry.stat().st_mtime_ns}" for entry in classes])
    for place in places(kept):
        if (listing := _read_listing(folder, place, stamp)) is not None:
            return listing
    listing = _walk(folder, classes)
    content = {"names": listing.names, "labels": listing.labels, "digest": np.array(listing.digest)}
    remember(kept, lambda file: np.savez(file, stamp=stamp, **content))
    return listing


def _read_listing(folder: Path, file: Path, stamp: np.ndarray) -> ImageListing | None:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            if np.array_equal(kept["stamp"], stamp):
                digest = str(kept["digest"])
                return ImageListing(folder=folder, names=kept["names"], labels=kept["labels"], digest=digest)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # none yet, or half of one
    return None


def _images(folder: os.DirEntry[str]) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as files:
        yield from (file for file in files if file.name.lower().endswith(IMAGE_ENDINGS))


def _walk(folder: Path, classes: list[os.DirEntry[str]]) -> ImageListing:
    names: list[str] = []
    counts: dict[str, int] = {}
    digest = hashlib.sha256()
    known = {entry.name for entry in classes}
    for entry in classes:
        found = sorted(_images(entry), key=lambda file: file.name)
        check_in_their_class(folder / entry.name, [file.name for file in found], entry.name, known)
        names += [f"{entry.name}/{file.name}" for file in found]
        counts[entry.name] = len(found)
        for file in found:
            digest.update(os.fsencode(f"{entry.name}/{file.name} {_size(file)}\n"))
    check_none_empty(folder, counts)
    return ImageListing(
        folder=folder,
        names=np.array([os.fsencode(name) for name in names], dtype=np.bytes_),
        labels=np.repeat(np.arange(len(classes)), list(counts.values())),
        digest=digest.hexdigest(),
    )


def _size(file: os.DirEntry[str]) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise RunError(f"cannot read {file.path}: {error.strerror}") from None
