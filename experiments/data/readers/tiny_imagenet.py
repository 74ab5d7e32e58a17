"""TinyImageNet (200 classes of 64x64 pixels): JPEG files, decoded once to one array per split."""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.data.info import ArraySplits
from experiments.data.readers.disk import kept_array
from experiments.data.readers.download import Archive, ensure_folder
from experiments.errors import RunError, UserError

NUM_CLASSES = 200
SIDE = 64
ARCHIVE = Archive(
    title="TinyImageNet",
    folder="tiny-imagenet-200",
    url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    md5="90528d7ca1a48142e341f4ef8d21d0de",
)


@dataclass(frozen=True, kw_only=True)
class LabelledFiles:
    """Image files, relative to the folder of the data set, and the class of each."""

    files: list[str]
    labels: list[int]


def check(root: Path) -> None:
    """UserError if the folder is there with another number of classes; a missing one will be fetched."""
    folder = root / ARCHIVE.folder
    if folder.is_dir() and (found := len(_classes(folder))) != NUM_CLASSES:
        raise UserError(
            f"{folder} names {found} classes in wnids.txt, not {NUM_CLASSES}: move this part away, and the "
            "whole set is downloaded"
        )


def load(root: Path) -> ArraySplits:
    """The whole set, its official validation split as the test, downloaded to `root` if it is not there."""
    folder = ensure_folder(root, ARCHIVE)
    check(root)
    return read_folder(folder)


def read_folder(folder: Path) -> ArraySplits:
    """A folder in the public layout with any number of classes; labels follow the sorted class names."""
    classes = _classes(folder)
    train, val = _list_train(folder, classes), _list_val(folder, classes)
    return ArraySplits(
        train_images=_decoded_once(folder, "train", train.files),
        train_labels=np.array(train.labels, dtype=np.int64),
        test_images=_decoded_once(folder, "val", val.files),
        test_labels=np.array(val.labels, dtype=np.int64),
    )


def _classes(folder: Path) -> list[str]:
    return sorted(_read_text(folder / "wnids.txt").split())


def _list_train(folder: Path, classes: list[str]) -> LabelledFiles:
    files, labels = [], []
    for label, wnid in enumerate(classes):
        images = folder / "train" / wnid / "images"
        if not images.is_dir():
            raise RunError(f"{images} is missing, though {folder / 'wnids.txt'} names {wnid}")
        names = sorted(file.name for file in images.iterdir() if file.suffix == ".JPEG")
        files += [f"train/{wnid}/images/{name}" for name in names]
        labels += [label] * len(names)
    return LabelledFiles(files=files, labels=labels)


def _list_val(folder: Path, classes: list[str]) -> LabelledFiles:
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    file = folder / "val" / "val_annotations.txt"
    rows = [line.split("\t")[:2] for line in _read_text(file).splitlines()]
    for row in rows:
        if len(row) != 2 or row[1] not in label_of:
            raise RunError(f"{file}: {row[-1]!r} is not a class of wnids.txt")
    return LabelledFiles(
        files=[f"val/images/{name}" for name, _ in rows], labels=[label_of[wnid] for _, wnid in rows]
    )


def _read_text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise RunError(f"cannot read {file}: {error.strerror}") from None


def _decoded_once(folder: Path, split: str, files: list[str]) -> np.ndarray:
    """uint8 (N, 64, 64, 3), from the array kept beside the files, which is made first if need be."""
    kept = folder / f"{split}-{SIDE}x{SIDE}.npy"
    return kept_array(kept, (len(files), SIDE, SIDE, 3), partial(_decode, folder, split, files))


def _decode(folder: Path, split: str, files: list[str]) -> np.ndarray:
    print(f"decoding {len(files)} images of {folder.name}/{split}, once", file=sys.stderr, flush=True)
    images = np.empty((len(files), SIDE, SIDE, 3), dtype=np.uint8)
    for place, name in enumerate(files):
        try:
            with Image.open(folder / name) as image:
                images[place] = np.asarray(image.convert("RGB"))  # some are grey
        except (OSError, SyntaxError, ValueError) as error:
            raise RunError(f"cannot read the image {folder / name}: {error}") from error
    return images
