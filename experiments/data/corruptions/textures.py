"""Random textures: clouds for fog, and ice, in place of the photographs of frost."""

from functools import lru_cache

import numpy as np

ICE_SEED = 0x1CE  # the textures stand for five files: they are the same for every seed
ICE_COUNT = 5
ICE_SIDE = 128
ICE_ROUGHNESS = 1.3  # decay of the jitter per round
ICE_RIDGES = 3  # half periods of the wave that turns a map into ridges
ICE_DARK, ICE_SPAN = 0.1, 0.8  # darkest grey, and how much lighter the brightest crystal is
ICE_TINT = (0.88, 0.95, 1.0)  # red, green, blue: frost is a little blue


def clouds(count: int, side: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """Fractal maps (N, side, side) from 0 to 1, by diamonds and squares on a grid that wraps around.

    Each round puts new points halfway between the old ones, at the mean of their four neighbours plus a
    uniform jitter. Its bound is the square of 100 / decay^round, as in the published program, which
    multiplies by the amplitude twice.
    """
    size = 1 << (side - 1).bit_length()
    maps = np.zeros((count, size, size))
    step, amplitude = size, 100.0
    while step >= 2:
        half = step // 2
        corners = maps[:, ::step, ::step]
        corners_right = np.roll(corners, -1, axis=2)
        rows = corners + corners_right
        bound = amplitude**2

        def jittered(total: np.ndarray, bound: float = bound) -> np.ndarray:
            return total / 4 + rng.uniform(-bound, bound, total.shape)

        centres = jittered(rows + np.roll(rows, -1, axis=1))
        across = jittered(rows + centres + np.roll(centres, 1, axis=1))
        down = jittered(corners + np.roll(corners, -1, axis=1) + centres + np.roll(centres, 1, axis=2))
        maps[:, half::step, half::step] = centres
        maps[:, ::step, half::step] = across
        maps[:, half::step, ::step] = down
        step, amplitude = half, amplitude / decay
    maps -= maps.min(axis=(1, 2), keepdims=True)
    maps /= maps.max(axis=(1, 2), keepdims=True)
    return maps[:, :side, :side]


@lru_cache
def ice() -> np.ndarray:
    """(5, 128, 128, 3) in [0, 1]: veins of light crystals on darker glass, drawn once.

    A stand-in for the photographs of frost used for the published images, which are not ours to pass on: the
    ridges of three fractal maps, the strongest at each place. A result on it is no result on the photographs.
    """
    rng = np.random.default_rng(ICE_SEED)
    veins = np.zeros((ICE_COUNT, ICE_SIDE, ICE_SIDE))
    for _ in range(3):
        ridges = np.abs(ICE_RIDGES * clouds(ICE_COUNT, ICE_SIDE, ICE_ROUGHNESS, rng) % 2 - 1)
        veins = np.maximum(veins, ridges**3)
    grey = ICE_DARK + ICE_SPAN * veins
    return (grey[..., None] * np.array(ICE_TINT)).astype(np.float32)
