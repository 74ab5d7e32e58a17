"""What cameras and files do. Severities 1 to 5 as published for CIFAR-10-C."""

from collections.abc import Iterable, Iterator
from io import BytesIO

import numpy as np
from PIL import Image
from scipy import ndimage

from experiments.data.corruptions.geometry import looked_up
from experiments.data.corruptions.levels import intensities, levels

CONTRAST = (0.75, 0.5, 0.4, 0.3, 0.15)
# In image sides: height of the waves, their width, and how far three points move for the affine map.
ELASTIC = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
PIXELATED_SIDE = (0.95, 0.9, 0.85, 0.75, 0.65)
JPEG_QUALITY = (80, 65, 58, 50, 40)


def contrast(images: np.ndarray, severity: int, _rng: np.random.Generator) -> np.ndarray:
    """Every channel drawn towards its mean over the image."""
    image = intensities(images)
    mean = image.mean(axis=(1, 2), keepdims=True)
    return levels((image - mean) * np.float32(CONTRAST[severity - 1]) + mean)


def elastic_transform(images: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A random affine map, then small random waves."""
    count, side = images.shape[:2]
    height, width, shift = (side * part for part in ELASTIC[severity - 1])
    rows, columns = _affine_places(count, side, shift, rng)
    result = looked_up(intensities(images), rows, columns, twice=False)
    if height > 0:
        waves = rng.uniform(-1, 1, (2, count, side, side)).astype(np.float32)
        smooth = ndimage.gaussian_filter(waves, (0, 0, width, width), mode="reflect", truncate=3)
        down, along = height * smooth
        pixel = np.arange(side)
        result = looked_up(result, pixel[:, None] + down, pixel + along, twice=True)
    return levels(result)


def pixelate(images: np.ndarray, severity: int, _rng: np.random.Generator) -> np.ndarray:
    """Fewer pixels, each the mean of a box, enlarged again."""
    side = images.shape[1]
    fewer = int(side * PIXELATED_SIDE[severity - 1])
    small = (image.resize((fewer, fewer), Image.Resampling.BOX) for image in _pictures(images))
    return _stacked((image.resize((side, side), Image.Resampling.BOX) for image in small), images)


def jpeg_compression(images: np.ndarray, severity: int, _rng: np.random.Generator) -> np.ndarray:
    """Written as JPEG and read again."""

    def through_jpeg(image: Image.Image) -> Image.Image:
        file = BytesIO()
        image.save(file, "JPEG", quality=JPEG_QUALITY[severity - 1])
        return Image.open(file)

    return _stacked((through_jpeg(image) for image in _pictures(images)), images)


def _affine_places(
    count: int, side: int, shift: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows, columns (N, S, S) where each pixel comes from; three points move by up to shift along an axis."""
    centre, arm = side // 2, side // 3
    before = np.array([[arm, arm], [arm, -arm], [-arm, -arm]]) + centre  # x, y
    after = before + rng.uniform(-shift, shift, (count, 3, 2))
    ones = np.ones((count, 3, 1))
    back = np.linalg.solve(np.concatenate([after, ones], axis=2), np.broadcast_to(before, (count, 3, 2)))
    y, x = np.mgrid[:side, :side]
    places = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(1, side * side, 3) @ back
    columns, rows = places.transpose(2, 0, 1).reshape(2, count, side, side)
    return rows, columns


def _pictures(images: np.ndarray) -> Iterator[Image.Image]:
    return (Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in images)


def _stacked(pictures: Iterable[Image.Image], images: np.ndarray) -> np.ndarray:
    result = np.empty_like(images)
    for place, picture in enumerate(pictures):
        result[place] = np.asarray(picture).reshape(images.shape[1:])
    return result
