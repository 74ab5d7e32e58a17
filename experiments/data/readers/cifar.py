"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in their public layout of pickled batches, by public MD5 sums."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.data.info import ArraySplits
from experiments.data.provenance import Identity, note, published
from experiments.data.readers.download import Archive, ensure_folder
from experiments.data.readers.safe_pickle import read_pickled_arrays
from experiments.errors import RunError, UserError

PAGE = "https://www.cs.toronto.edu/~kriz"
TRAIN_SIZE, TEST_SIZE = 50_000, 10_000
IMAGE_BYTES = 3 * 32 * 32


@dataclass(frozen=True, kw_only=True)
class CifarLayout:
    """Where the images and labels of one of the two sets lie; every file holds equally many images.

    train_files, test_file: names, and MD5 sums as published.
    """

    name: str
    archive: Archive
    train_files: dict[str, str]
    test_file: dict[str, str]
    labels_key: str
    num_classes: int


CIFAR10 = CifarLayout(
    name="cifar10",
    archive=Archive(
        title="CIFAR-10",
        folder="cifar-10-batches-py",
        url=f"{PAGE}/cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3d95e74349a",
    ),
    train_files={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test_file={"test_batch": "40351d587109b95175f43aff81a1287e"},
    labels_key="labels",
    num_classes=10,
)
CIFAR100 = CifarLayout(
    name="cifar100",
    archive=Archive(
        title="CIFAR-100",
        folder="cifar-100-python",
        url=f"{PAGE}/cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
    ),
    train_files={"train": "16019d7e3df5f24257cddd939b257f8d"},
    test_file={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    labels_key="fine_labels",
    num_classes=100,
)


def check(root: Path, layout: CifarLayout) -> None:
    """UserError if the folder is there without all its files as published; a missing one will be fetched.

    The user's own version of the set has to be declared: see `provenance.published`.
    """
    folder = root / layout.archive.folder
    if not folder.is_dir():
        return
    sizes = dict.fromkeys(layout.train_files, TRAIN_SIZE // len(layout.train_files))
    for name, images in (sizes | dict.fromkeys(layout.test_file, TEST_SIZE)).items():
        file = folder / name
        if not file.is_file() or file.stat().st_size < images * IMAGE_BYTES:
            raise UserError(
                f"{file} is {'cut short' if file.is_file() else 'missing'}: move the folder away, and the "
                "whole set is downloaded"
            )
    identity(root, layout)


def identity(root: Path, layout: CifarLayout) -> Identity:
    """Of the files that are there, for records; UserError if they are neither as published nor declared."""
    folder = root / layout.archive.folder
    return published(
        root,
        folder,
        layout.train_files | layout.test_file,
        archive=layout.archive.md5,
        remedy=f"move the folder {folder} away, and the whole set is downloaded",
    )


def load(root: Path, layout: CifarLayout) -> ArraySplits:
    """Both splits in the order of the files, downloaded to `root` if they are not there."""
    folder = ensure_folder(root, layout.archive)
    found = identity(root, layout)
    per_file = TRAIN_SIZE // len(layout.train_files)
    parts = [_read_batch(folder / name, layout, per_file) for name in layout.train_files]
    (test_file,) = layout.test_file
    test_images, test_labels = _read_batch(folder / test_file, layout, TEST_SIZE)
    note(layout.name, lambda: found)
    return ArraySplits(
        train_images=np.concatenate([images for images, _ in parts]),
        train_labels=np.concatenate([labels for _, labels in parts]),
        test_images=test_images,
        test_labels=test_labels,
    )


def _read_batch(file: Path, layout: CifarLayout, count: int) -> tuple[np.ndarray, np.ndarray]:
    content = read_pickled_arrays(file)
    pixels, labels = content.get("data"), content.get(layout.labels_key)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != (count, IMAGE_BYTES):
        found = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise RunError(f"{file}: 'data' must be uint8 ({count}, 3072), found {found}")
    if not isinstance(labels, list) or len(labels) != count or not all(isinstance(k, int) for k in labels):
        raise RunError(f"{file}: '{layout.labels_key}' must be a list of {count} whole numbers")
    if min(labels) < 0 or max(labels) >= layout.num_classes:
        raise RunError(
            f"{file}: labels must be 0..{layout.num_classes - 1}, found {min(labels)}..{max(labels)}"
        )
    images = pixels.reshape(count, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.array(labels, dtype=np.int64)
