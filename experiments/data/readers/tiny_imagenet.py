"""TinyImageNet (200 classes of 64x64 pixels): JPEG files, decoded once to one array per split.

Its files have no public checksums one by one, only the archive has, which is checked when it is downloaded.
Of a folder that is there, names, numbers and classes of the images are checked; the digest of what was
decoded goes into records.
"""

import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.data.classes import check_in_their_class, check_none_empty, check_same_classes
from experiments.data.info import ArraySplits
from experiments.data.provenance import MODIFIED, Identity, modification, note, of_arrays, of_json
from experiments.data.readers.download import Archive, ensure_folder
from experiments.data.readers.kept import kept_array
from experiments.errors import RunError, UserError
from experiments.text_files import read_utf8

NUM_CLASSES = 200
TRAIN_EACH, VAL_EACH = 500, 50  # images of a class
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
    """UserError if the folder is there without all images in their classes; a missing one will be fetched.

    The user's own version of the set, declared by MODIFIED.txt, may have any number of images in a class.
    """
    folder = root / ARCHIVE.folder
    if not folder.is_dir():
        return
    classes = _classes(folder)
    if (found := len(classes)) != NUM_CLASSES:
        raise UserError(
            f"{folder} names {found} classes in wnids.txt, not {NUM_CLASSES}: move this part away, and the "
            "whole set is downloaded"
        )
    train, val = _list_train(folder, classes), _list_val(folder, classes)
    if modification(folder) is not None:
        return
    for split, listed, each in (("train", train, TRAIN_EACH), ("val", val, VAL_EACH)):
        for label, count in Counter(listed.labels).items():
            if count != each:
                raise UserError(
                    f"{folder / split} has {count} images of the class {classes[label]}, not {each} as "
                    "published: move the folder away, and the whole set is downloaded. If it is meant to be "
                    f"another set, say in a line in {folder / MODIFIED} what it is"
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
    train_images, train_digest = _decoded_once(folder, "train", train.files)
    val_images, val_digest = _decoded_once(folder, "val", val.files)
    train_labels, val_labels = (np.array(split.labels, dtype=np.int64) for split in (train, val))

    def identity() -> Identity:
        labels = of_arrays(train_labels, val_labels)["digest"]
        found = of_json([train_digest, val_digest, classes, labels], "its decoded images and their classes")
        modified = modification(folder)
        return found if modified is None else {**found, "modified": modified}

    note("tinyimagenet", identity)
    return ArraySplits(
        train_images=train_images,
        train_labels=train_labels,
        test_images=val_images,
        test_labels=val_labels,
    )


def _classes(folder: Path) -> list[str]:
    file = folder / "wnids.txt"
    found = sorted(_read_text(file).split())
    if twice := [wnid for wnid, count in Counter(found).items() if count > 1]:
        raise UserError(f"{file} names {twice[0]} more than once")
    return found


def _list_train(folder: Path, classes: list[str]) -> LabelledFiles:
    """Labels are places in the sorted `classes`, which the folders must be, and hold images."""
    place = folder / "train"
    try:
        found = [entry.name for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        check_same_classes(place, found, folder / "wnids.txt", classes)
        listed = {
            wnid: sorted(f.name for f in (place / wnid / "images").iterdir() if f.suffix == ".JPEG")
            for wnid in classes
        }
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    check_none_empty(place, {wnid: len(names) for wnid, names in listed.items()})
    known = set(classes)
    for wnid, names in listed.items():
        check_in_their_class(place / wnid / "images", names, wnid, known)
    return LabelledFiles(
        files=[f"train/{wnid}/images/{name}" for wnid in classes for name in listed[wnid]],
        labels=[label for label, wnid in enumerate(classes) for _ in listed[wnid]],
    )


def _list_val(folder: Path, classes: list[str]) -> LabelledFiles:
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    file = folder / "val" / "val_annotations.txt"
    label_of_image: dict[str, int] = {}
    for number, line in enumerate(_read_text(file).splitlines(), 1):
        name, tab, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if not tab or wnid not in label_of:
            raise UserError(f"{file}, line {number}: {wnid or line!r} is not a class of wnids.txt")
        if name in label_of_image:
            raise UserError(f"{file}, line {number}: {name} has a line already")
        label_of_image[name] = label_of[wnid]
    images = folder / "val" / "images"
    try:
        absent = sorted(label_of_image.keys() - {entry.name for entry in images.iterdir()})
    except OSError as error:
        raise UserError(f"cannot read {images}: {error.strerror}") from None
    if absent:
        raise UserError(f"{images} lacks {len(absent)} images that {file.name} names, {absent[0]} first")
    counts = Counter(label_of_image.values())
    check_none_empty(file, {wnid: counts[label] for wnid, label in label_of.items()})
    return LabelledFiles(
        files=[f"val/images/{name}" for name in label_of_image], labels=list(label_of_image.values())
    )


def _read_text(file: Path) -> str:
    try:
        return read_utf8(file)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None


def _decoded_once(folder: Path, split: str, files: list[str]) -> tuple[np.ndarray, str]:
    """uint8 (N, 64, 64, 3) and its digest, from the array kept beside the files, made first if need be."""
    kept = folder / f"{split}-{SIDE}x{SIDE}.npy"
    return kept_array(kept, (len(files), SIDE, SIDE, 3), files, partial(_decode, folder, split, files))


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
