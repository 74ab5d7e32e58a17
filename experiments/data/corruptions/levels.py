"""Between bytes and intensities in [0, 1]."""

import numpy as np

ROUNDING = 1e-3  # of a level: float32 must not turn an exact 7 into 6.9999 and so into 6


def intensities(images: np.ndarray) -> np.ndarray:
    """uint8 to float32 in [0, 1]."""
    return images.astype(np.float32) / np.float32(255)


def levels(values: np.ndarray) -> np.ndarray:
    """[0, 1], clipped, to uint8. Fractions are cut off, not rounded, as in the published arrays."""
    return (np.clip(values, 0, 1) * 255 + ROUNDING).astype(np.uint8)
