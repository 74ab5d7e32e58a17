"""SVHN, Street View House Numbers (Netzer et al. 2011): the test split of the cropped digits."""

from pathlib import Path

import numpy as np

from experiments.data.ood.fetch import PublicFile, ensure
from experiments.data.ood.info import OodImages
from experiments.data.ood.mat_file import read_mat
from experiments.data.ood.parts import read_part
from experiments.errors import RunError

SIZE = 26_032
TEST = PublicFile(
    title="SVHN",
    path="test_32x32.mat",
    url="http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
    md5="eb5a983be6a315427106f1b164d9cef3",
)


def check(root: Path) -> None:
    """Fetch the file unless it or a part of the set is there."""
    if (root / TEST.path).exists() or read_part(root, "svhn") is None:
        ensure(root, TEST)


def load(root: Path) -> OodImages:
    """The whole split if it is there; else a part if one is; else the whole, fetched."""
    if not (root / TEST.path).exists() and (part := read_part(root, "svhn")) is not None:
        return part
    return OodImages(images=read_test(ensure(root, TEST), SIZE))


def read_test(file: Path, size: int) -> np.ndarray:
    """uint8 (size, 32, 32, 3); the file's own order of axes is height, width, channel, image."""
    pixels = read_mat(file, "X")
    if pixels.dtype != np.uint8 or pixels.shape != (32, 32, 3, size):
        raise RunError(f"{file}: X must be uint8 (32, 32, 3, {size}), found {pixels.dtype} {pixels.shape}")
    return np.ascontiguousarray(pixels.transpose(3, 0, 1, 2))
