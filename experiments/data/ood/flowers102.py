"""Oxford Flowers 102 (Nilsback and Zisserman 2008): the test split, reduced to 32x32."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.data.ood.fetch import PublicFile, ensure
from experiments.data.ood.info import OodImages
from experiments.data.ood.mat_file import read_mat
from experiments.data.ood.parts import read_part
from experiments.data.readers.kept import kept_array
from experiments.errors import RunError, UserError

SIZE = 6149
SIDE = 32
FOLDER = "flowers-102"
PAGE = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
IMAGES = PublicFile(
    title="Flowers102",
    path=f"{FOLDER}/jpg",
    url=f"{PAGE}/102flowers.tgz",
    md5="52808999861908f626f3c1f4e79d11fa",
    archive=True,
)
SPLITS = PublicFile(
    title="The splits of Flowers102",
    path=f"{FOLDER}/setid.mat",
    url=f"{PAGE}/setid.mat",
    md5="a5357ecc9cb78c4bef273ce3793fc85c",
)


def check(root: Path) -> None:
    """Fetch the files unless they or a part of the set are there."""
    if (root / IMAGES.path).exists() or read_part(root, "flowers102") is None:
        _test_files(ensure(root, IMAGES), ensure(root, SPLITS), SIZE)


def load(root: Path) -> OodImages:
    """The whole split if it is there; else a part if one is; else the whole, fetched."""
    if not (root / IMAGES.path).exists() and (part := read_part(root, "flowers102")) is not None:
        return part
    folder, splits = ensure(root, IMAGES), ensure(root, SPLITS)
    return OodImages(images=read_test(folder, splits, SIZE))


def read_test(folder: Path, splits: Path, size: int) -> np.ndarray:
    """uint8 (size, 32, 32, 3) in the order of the split, kept beside the images: decoding takes a while."""
    names = _test_files(folder, splits, size)

    def decode() -> np.ndarray:
        print(f"decoding {size} images of {folder}, once", file=sys.stderr, flush=True)
        return np.stack([reduced(folder / name) for name in names])

    images, _ = kept_array(folder.parent / f"test-{SIDE}x{SIDE}.npy", (size, SIDE, SIDE, 3), names, decode)
    return images


def _test_files(folder: Path, splits: Path, size: int) -> list[str]:
    """The names of the test images, in order; UserError if one is not there."""
    numbers = read_mat(splits, "tstid").ravel()
    if len(numbers) != size:
        raise RunError(f"{splits}: tstid must name {size} images, found {len(numbers)}")
    names = [f"image_{number:05d}.jpg" for number in numbers]
    there = {entry.name for entry in folder.iterdir()}
    if absent := [name for name in names if name not in there]:
        raise UserError(f"{folder} lacks {len(absent)} of {size} test images, {absent[0]} first: complete it")
    return names


def reduced(file: Path) -> np.ndarray:
    """The shorter side made 32 pixels long by linear interpolation over what it covers, then the middle."""
    try:
        with Image.open(file) as image:
            picture = image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise RunError(f"cannot read the image {file}: {error}") from error
    shorter = min(picture.size)
    width, height = (SIDE * length // shorter for length in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - SIDE) / 2), round((height - SIDE) / 2)
    return np.asarray(picture.crop((left, top, left + SIDE, top + SIDE)))
