"""Moving pixels: zooming into the centre, blurring along a direction, looking up between pixels."""

from functools import lru_cache

import numpy as np
from scipy import ndimage

SMALLEST_TAP = 1e-4  # of a kernel of sum 1: less than a thirtieth of a level


@lru_cache
def zoom_matrix(side: int, factor: float) -> np.ndarray:
    """(side, side) A such that A x A^T is the image x (side, side) enlarged about its centre, cut to size.

    Linear interpolation, with the published rounding: the centre of ceil(side / factor) pixels is enlarged
    and what juts out is cut off.
    """
    kept = int(np.ceil(side / factor))
    first = (side - kept) // 2
    enlarged = ndimage.zoom(np.eye(kept), (factor, 1), order=1)
    cut = (len(enlarged) - side) // 2
    matrix = np.zeros((side, side), dtype=np.float32)
    matrix[:, first : first + kept] = enlarged[cut : cut + side]
    return matrix


def motion_blurred(images: np.ndarray, radius: float, sigma: float, angles: np.ndarray) -> np.ndarray:
    """Float images (N, S, S, C), each smeared along its own angle (N,) in degrees.

    As ImageMagick, which the published images went through, defines it: a one-sided normal kernel of
    2 ceil(radius) + 1 taps at whole pixels on the ray; outside, the edge pixel goes on.
    """
    count, side = images.shape[:2]
    distance = np.arange(2 * int(np.ceil(radius)) + 1)
    taps = np.exp(-(distance**2) / (2 * sigma**2))
    taps /= taps.sum()
    ray = np.deg2rad(angles)[:, None, None]
    image, pixel = np.arange(count)[:, None, None], np.arange(side)
    result = np.zeros_like(images)
    for k, tap in enumerate(taps):
        if tap < SMALLEST_TAP:
            break
        rows = np.clip(pixel[:, None] + np.ceil(k * np.sin(ray) - 0.5).astype(np.int64), 0, side - 1)
        columns = np.clip(pixel + np.ceil(k * np.cos(ray) - 0.5).astype(np.int64), 0, side - 1)
        result += images.dtype.type(tap) * images[image, rows, columns]
    return result


def looked_up(images: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, twice: bool) -> np.ndarray:
    """Float images (N, S, S, C) at places (N, S, S) between pixels, by linear interpolation.

    Outside, the image is mirrored; twice: the edge pixel then comes twice (dcba|abcd), else once (dcb|abcd).
    """
    side = images.shape[1]
    image = np.arange(len(images))[:, None, None]
    top, left = np.floor(rows), np.floor(columns)
    below, right = (rows - top).astype(images.dtype), (columns - left).astype(images.dtype)
    result = np.zeros_like(images)
    for down, weight_down in ((0, 1 - below), (1, below)):
        row = _mirrored(top.astype(np.int64) + down, side, twice)
        for along, weight_along in ((0, 1 - right), (1, right)):
            column = _mirrored(left.astype(np.int64) + along, side, twice)
            result += (weight_down * weight_along)[..., None] * images[image, row, column]
    return result


def _mirrored(place: np.ndarray, side: int, twice: bool) -> np.ndarray:
    if twice:
        place = place % (2 * side)
        return np.minimum(place, 2 * side - 1 - place)
    place = place % (2 * side - 2)
    return np.minimum(place, 2 * side - 2 - place)
