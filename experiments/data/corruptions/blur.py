"""Blurs. Severities 1 to 5 as published for CIFAR-10-C; lengths in pixels."""

from functools import lru_cache

import numpy as np
from scipy import ndimage

from experiments.data.corruptions.geometry import motion_blurred, zoom_matrix
from experiments.data.corruptions.levels import intensities, levels

DEFOCUS = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))  # radius of the disk, its own blur
GLASS = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))  # blur before and after, rounds of shuffling
MOTION = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))  # radius, standard deviation of the kernel
ZOOM_END = (1.06, 1.11, 1.16, 1.21, 1.26)  # with these ends of np.arange, 7, 12, 16, 21 and 26 factors
ZOOM_STEP = 0.01


def defocus_blur(images: np.ndarray, severity: int, _rng: np.random.Generator) -> np.ndarray:
    """A small disk instead of a point, as out of focus."""
    kernel = _disk(*DEFOCUS[severity - 1])
    side, reach = images.shape[1], len(kernel) // 2
    padded = np.pad(intensities(images), ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="reflect")
    result = np.zeros(images.shape, dtype=np.float32)
    for row, column in np.argwhere(kernel):
        result += kernel[row, column] * padded[:, row : row + side, column : column + side]
    return levels(result)


def glass_blur(images: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Blur, exchange each pixel for a close one, blur again, as through frosted glass.

    The published program means to swap two neighbours but overwrites one by the other and keeps the other,
    and it visits a pixel before those it may take from: so each pixel takes the value of itself or of the one
    above, to the left or both, as they were before the round. The first two rows and columns stay.
    """
    sigma, rounds = GLASS[severity - 1]
    count, side = images.shape[:2]
    shuffled = levels(_smooth(intensities(images), sigma))
    image, pixel = np.arange(count)[:, None, None], np.arange(2, side)
    for _ in range(rounds):
        up, left = rng.integers(2, size=(2, count, side - 2, side - 2), dtype=np.int8)
        shuffled[:, 2:, 2:] = shuffled[image, pixel[:, None] - up, pixel - left]
    return levels(_smooth(intensities(shuffled), sigma))


def motion_blur(images: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Smeared to one side, within 45 degrees of the horizontal."""
    angles = rng.uniform(-45, 45, len(images))
    blurred = motion_blurred(images.astype(np.float32), *MOTION[severity - 1], angles)
    return np.rint(blurred).astype(np.uint8)  # ImageMagick rounds, and no fraction is left to cut off


def zoom_blur(images: np.ndarray, severity: int, _rng: np.random.Generator) -> np.ndarray:
    """The mean of the image and of ever larger ones, as while zooming."""
    count, side, _, channels = images.shape
    planes = intensities(images).transpose(0, 3, 1, 2).reshape(count * channels, side * side)
    blurred = (planes @ _zoom_operator(side, severity)).reshape(count, channels, side, side)
    return levels(blurred.transpose(0, 2, 3, 1))


def _smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(values, (0, sigma, sigma, 0), mode="nearest")


@lru_cache
def _zoom_operator(side: int, severity: int) -> np.ndarray:
    """(side^2, side^2), to multiply planes from the right: the mean over all factors and the image itself."""
    factors = np.arange(1, ZOOM_END[severity - 1], ZOOM_STEP)
    total = np.eye(side * side, dtype=np.float32)
    for factor in factors:
        matrix = zoom_matrix(side, float(factor))
        total += np.kron(matrix, matrix)
    return np.ascontiguousarray(total.T) / np.float32(len(factors) + 1)


def _disk(radius: float, sigma: float) -> np.ndarray:
    """A disk of whole pixels of sum 1, softened by a normal kernel of 3x3 taps: a pixel wider all round."""
    reach = int(radius) + 1
    steps = np.arange(-reach, reach + 1)
    disk = (steps[:, None] ** 2 + steps**2 <= radius**2).astype(np.float64)
    soft = np.exp(-(np.arange(-1, 2) ** 2) / (2 * sigma**2))
    soft /= soft.sum()
    kernel = ndimage.correlate(disk / disk.sum(), np.outer(soft, soft), mode="constant")
    return kernel.astype(np.float32)
