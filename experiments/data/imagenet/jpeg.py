"""One JPEG file to one square of bytes, decoding no more detail than the square can show."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.errors import RunError

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the whole image

AREA_SHARE = (0.08, 1.0)  # of the image; with the aspect ratios the usual "Inception" crop, ffcv's defaults
ASPECT_RATIOS = (3 / 4, 4 / 3)
CENTRE_SHARE = 224 / 256  # of the shorter side, for the test


def random_box(width: int, height: int, rng: np.random.Generator) -> Box:
    """A random part of the image with random area and aspect ratio, for training.

    After ten parts that do not fit, the largest central part of an allowed aspect ratio.
    """
    low, high = (math.log(ratio) for ratio in ASPECT_RATIOS)
    for _ in range(10):
        area = width * height * rng.uniform(*AREA_SHARE)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.random() * (width - w + 1)), int(rng.random() * (height - h + 1))
            return left, top, left + w, top + h
    w = min(width, height * ASPECT_RATIOS[1])
    h = min(height, width / ASPECT_RATIOS[0])
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def central_box(width: int, height: int) -> Box:
    """The central square seen in tests: resizing the shorter side to 256 and cutting out 224, in one step."""
    side = min(width, height) * CENTRE_SHARE
    return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2


def decode_box(file: Path, side: int, choose_box: Callable[[int, int], Box]) -> np.ndarray:
    """The part of the image that `choose_box(width, height)` names, as uint8 (side, side, 3).

    The decoder itself shrinks the image by 2, 4 or 8 where the part stays at least `side` pixels wide and
    high (a JPEG's cosine transform can be evaluated on a coarser grid), and only the part is resized, with a
    triangle filter wide enough not to alias. Grey and CMYK files become RGB.
    """
    try:
        with Image.open(file) as image:
            width, height = image.size
            left, top, right, bottom = choose_box(width, height)
            spare = int(min(right - left, bottom - top) / side)
            shrink = 1.0
            if spare >= 2:
                drafted = image.draft("RGB", (width // spare, height // spare))
                if drafted is not None:  # None for what is not a JPEG: one file of ImageNet is a PNG
                    shrink = width / drafted[1][2]
            box = (left / shrink, top / shrink, right / shrink, bottom / shrink)
            picture = image if image.mode == "RGB" else image.convert("RGB")  # convert() would copy all of it
            return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR, box))
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:
        raise RunError(f"cannot read the image {file}: {error}") from error
