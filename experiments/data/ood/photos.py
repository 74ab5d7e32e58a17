"""Pieces of the two photographs that come with scikit-learn, in the format of the digits: 8x8, grey."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.data.ood.info import OodImages
from experiments.data.readers.digits import LEVELS
from experiments.errors import UserError

COUNT = 797  # as many as digits to test with
SEED = 20240217
NAMES = ("china.jpg", "flower.jpg")
SIDE = 8
PIECES = (64, 320)  # sides of the pieces in pixels of photographs of 640x427: small ones are often plain


def load() -> OodImages:
    """uint8 (797, 8, 8, 1): squares of random place and size, always the same, in the digits' 17 levels."""
    photos = [_open(name) for name in NAMES]
    rng = np.random.default_rng(SEED)
    images = np.empty((COUNT, SIDE, SIDE, 1), dtype=np.uint8)
    for place in range(COUNT):
        photo = photos[place % len(photos)]
        side = int(rng.integers(*PIECES))
        left, top = (int(rng.integers(length - side)) for length in photo.size)
        piece = photo.resize((SIDE, SIDE), Image.Resampling.BOX, (left, top, left + side, top + side))
        counts = np.rint(np.asarray(piece) / 255 * LEVELS).astype(np.uint16)
        images[place, :, :, 0] = counts * 255 // LEVELS
    return OodImages(images=images)


def _open(name: str) -> Image.Image:
    spec = find_spec("sklearn")
    folder = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    file = folder / "datasets" / "images" / name if folder else None
    if file is None or not file.is_file():
        raise UserError(f"the photographs come with scikit-learn, which has none at {file}: reinstall it")
    with Image.open(file) as image:
        return image.convert("L")
