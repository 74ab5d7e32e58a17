"""Noise: every channel of every pixel on its own. Severities 1 to 5 as published for CIFAR-10-C."""

import numpy as np

from experiments.data.corruptions.levels import intensities, levels

GAUSSIAN_STD = (0.04, 0.06, 0.08, 0.09, 0.10)
PHOTONS_AT_WHITE = (500, 250, 100, 75, 50)
IMPULSE_SHARE = (0.01, 0.02, 0.03, 0.05, 0.07)


def gaussian_noise(images: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Normal noise of one standard deviation, as in low light."""
    noise = rng.standard_normal(images.shape, dtype=np.float32)
    return levels(intensities(images) + np.float32(GAUSSIAN_STD[severity - 1]) * noise)


def shot_noise(images: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Poisson counts of light: darker pixels are relatively noisier."""
    photons = PHOTONS_AT_WHITE[severity - 1]
    return levels(rng.poisson(intensities(images) * photons).astype(np.float32) / photons)


def impulse_noise(images: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A share of the values become black or white, with equal chances."""
    share, draw = IMPULSE_SHARE[severity - 1], rng.random(images.shape, dtype=np.float32)
    result = images.copy()
    result[draw < share / 2] = 0
    result[draw > 1 - share / 2] = 255
    return result
