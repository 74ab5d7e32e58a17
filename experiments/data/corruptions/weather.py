"""Weather and light. Severities 1 to 5 as published for CIFAR-10-C."""

import numpy as np

from experiments.data.corruptions.geometry import motion_blurred, zoom_matrix
from experiments.data.corruptions.levels import intensities, levels
from experiments.data.corruptions.textures import ICE_SIDE, clouds, ice

# Mean and standard deviation of the flakes' noise, enlargement, threshold; radius and standard deviation of
# their motion blur; how much of the image stays as it is, not whitened.
SNOW = (
    (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
    (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
)
FROST = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))  # weights of the image and of the ice
FOG = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))  # thickness, smoothness of the clouds
BRIGHTER = (0.05, 0.1, 0.15, 0.2, 0.3)
LUMA = (0.299, 0.587, 0.114)


def snow(images: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Streaks of bright flakes, twice, the second time turned by half a turn, over a whitened image."""
    mean, std, zoom, threshold, radius, sigma, kept = SNOW[severity - 1]
    count, side, _, channels = images.shape
    enlarge = zoom_matrix(side, zoom)
    flakes = np.float32(mean) + np.float32(std) * rng.standard_normal((count, side, side), dtype=np.float32)
    flakes = enlarge @ flakes @ enlarge.T
    flakes[flakes < threshold] = 0
    angles = rng.uniform(-135, -45, count)
    streaks = motion_blurred(levels(flakes)[..., None].astype(np.float32), radius, sigma, angles)
    streaks = np.rint(streaks) / 255  # both layers of the published images went through bytes

    image = intensities(images)
    grey = image @ np.array(LUMA, dtype=np.float32)[:, None] if channels == 3 else image
    image = kept * image + (1 - kept) * np.maximum(image, 1.5 * grey + 0.5)
    return levels(image + streaks + streaks[:, ::-1, ::-1])


def frost(images: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A random piece of one of five textures of ice laid over the image."""
    weight, ice_weight = FROST[severity - 1]
    count, side, _, channels = images.shape
    which = rng.integers(len(ice()), size=(count, 1, 1))
    top, left = rng.integers(ICE_SIDE - side, size=(2, count, 1, 1))
    pixel = np.arange(side)
    pieces = ice()[which, top + pixel[:, None], left + pixel]
    if channels == 1:
        pieces = pieces.mean(axis=-1, keepdims=True)
    return levels(weight * intensities(images) + ice_weight * pieces)


def fog(images: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Fractal clouds added to the image, which then is darkened to its old maximum."""
    thickness, smoothness = FOG[severity - 1]
    count, side = images.shape[:2]
    image = intensities(images)
    brightest = image.max(axis=(1, 2, 3), keepdims=True)
    veil = thickness * clouds(count, side, smoothness, rng)[..., None].astype(np.float32)
    return levels((image + veil) * brightest / (brightest + thickness))


def brightness(images: np.ndarray, severity: int, _rng: np.random.Generator) -> np.ndarray:
    """More of V, the largest channel; hue and saturation stay, so all channels grow in proportion."""
    image = intensities(images)
    value = image.max(axis=3, keepdims=True)
    brighter = np.minimum(value + np.float32(BRIGHTER[severity - 1]), 1)
    black = value == 0  # without hue: it becomes grey
    return levels(np.where(black, brighter, image * (brighter / np.where(black, 1, value))))
