"""Temperature scaling (Guo et al. 2017, section 4.2): the simplest calibration, one number fitted afterwards.

Probabilities become softmax(logits / T), with the T that makes held-out data most likely. Accuracy stays;
T > 1 makes predictions less sure. For averaged predictions, which have no logits, the logarithms of the
probabilities take their place. Needs numpy and scipy only.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import softmax

LOWEST, HIGHEST = 0.01, 100.0
SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)  # in place of 0, as in `classification`


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature in [0.01, 100] of the least NLL on held-out logits (N, C) with labels (N,).

    The NLL is convex in b = 1/T, and its slope, the mean of E_p[z] - z_y with p = softmax(b z), grows with b:
    its one zero is found by bracketing. Where there is none in the range, as when every label has the largest
    logit and T = 0 would be best, the end of the range is returned.
    """
    z, y = _checked(logits, labels)
    z = z - z.max(axis=1, keepdims=True)  # changes nothing, and keeps large logits exact
    of_label = z[np.arange(len(z)), y]

    def slope(log_b: float) -> float:
        return float(((softmax(np.exp(log_b) * z, axis=1) * z).sum(axis=1) - of_label).mean())

    coolest, hottest = -np.log(LOWEST), -np.log(HIGHEST)
    if slope(coolest) <= 0:
        return LOWEST
    if slope(hottest) >= 0:
        return HIGHEST
    return float(np.exp(-brentq(slope, hottest, coolest, xtol=1e-10)))


def tempered(logits: ArrayLike, temperature: float) -> np.ndarray:
    """Probabilities softmax(logits / T), float64 (N, C)."""
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature = {temperature}; it must be positive and finite")
    return softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)


def log_probabilities(probs: ArrayLike) -> np.ndarray:
    """Finite logarithms of predictive probabilities (N, C), to be used as logits."""
    return np.log(np.maximum(np.asarray(probs, dtype=np.float64), SMALLEST_PROBABILITY))


def cross_fitted(
    logits: ArrayLike, labels: ArrayLike, *, seed: int
) -> tuple[np.ndarray, tuple[float, float]]:
    """Tempered probabilities (N, C) where no held-out data is left, and the temperatures of both halves.

    A permutation drawn from `seed` cuts the examples into halves; each is tempered as the other one's labels
    want it, so no label has a say in its own example's temperature.
    """
    z, y = _checked(logits, labels)
    order = np.random.default_rng(seed).permutation(len(z))
    halves = order[: len(z) // 2], order[len(z) // 2 :]
    first, second = (fit_temperature(z[other], y[other]) for other in reversed(halves))
    probs = np.empty_like(z)
    for half, temperature in zip(halves, (first, second), strict=True):
        probs[half] = tempered(z[half], temperature)
    return probs, (first, second)


def _checked(logits: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if z.ndim != 2 or y.shape != z.shape[:1] or not len(z):
        raise ValueError(f"logits {z.shape} and labels {y.shape} must be (N, C) and (N,) with N > 0")
    if not np.isfinite(z).all():
        raise ValueError(
            "logits are not all finite; for those of probabilities pass log_probabilities(probs)"
        )
    return z, y
