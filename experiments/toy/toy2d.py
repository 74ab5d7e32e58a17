"""The surface of the tutorial: SGD, AdamW and IVON over a sharp and a flat minimum.

The surface and the starts are chosen by reason and not by what comes out. It is -log of a mixture of two
Gaussians, so that the posterior is known: masses 0.2 and 0.8, widths 0.15 and 0.6, far enough apart to be two
minima. A fourth of the width in two dimensions makes the sharp minimum the deeper one (0.2 / 0.15^2 exceeds
0.8 / 0.6^2) with a fourth of the mass. The starts are a regular grid, symmetric about the middle.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from baselines.settings import IVON, SGD, AdamW
from experiments.engine.artefact import Artefact, Scale
from experiments.engine.record import Store
from experiments.engine.spec.toy import SurfaceSpec, Well
from experiments.toy.missing import missing
from experiments.toy.surface import log_density

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

SHARP = Well(centre=(-1.0, 0.0), width=0.15, mass=0.2)
FLAT = Well(centre=(1.0, 0.0), width=0.6, mass=0.8)
# A regular grid, symmetric about the point between the minima.
STARTS = tuple((x, y) for y in (1.2, 0.0, -1.2) for x in (-2.5, -1.5, -0.5, 0.5, 1.5, 2.5))
ELLIPSES_OF = STARTS.index((-2.5, 0.0))  # its way leads over the sharp minimum


def _surface(method: SGD | AdamW | IVON) -> SurfaceSpec:
    return SurfaceSpec(method=method, sharp=SHARP, flat=FLAT, starts=STARTS, steps=600, every=5)


# One learning rate for all. Without weight decay the mixture of the two Gaussians is IVON's target.
RUNS = {
    "SGD": _surface(SGD(lr=0.01, momentum=0.0)),
    "AdamW": _surface(AdamW(lr=0.01)),
    "IVON": _surface(IVON(lr=0.01, hess_init=1.0, beta2=0.99, weight_decay=0.0)),
    # The first standard deviation, 1 / sqrt(hess_init), below the width of the sharp minimum.
    "IVON, narrow at first": _surface(
        IVON(lr=0.01, hess_init=100.0, beta2=0.99, weight_decay=0.0, rescale_lr=False)
    ),
}


def _paths(store: Store) -> pd.DataFrame:
    """panel, start, step, x, y, std_x, std_y, end: what `plots.surface_paths` draws."""
    import pandas as pd

    columns = ["step", "x", "y", "std_x", "std_y"]
    rows = [
        {"panel": panel, "start": start, **dict(zip(columns, point, strict=False)), "end": end_of(path)}
        for panel, spec in RUNS.items()
        if (record := store.done(spec))
        for start, path in enumerate(record["result"]["paths"])
        for point in path
    ]
    frame = pd.DataFrame(rows, columns=["panel", "start", *columns, "end"])
    return frame.astype({"std_x": float, "std_y": float})


def end_of(path: list[list[float]]) -> str:
    """The minimum within a width of which a path ends; the two circles do not meet."""
    _, x, y, *_ = path[-1]
    for name, well in (("sharp", SHARP), ("flat", FLAT)):
        if math.hypot(x - well.centre[0], y - well.centre[1]) < well.width:
            return name
    return "neither"


def _loss(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    import numpy as np

    return -np.logaddexp(log_density(x, y, SHARP), log_density(x, y, FLAT))


def _toy2d(scale: Scale, store: Store, folder: Path) -> list[Path]:
    from experiments.image_classification.frames import measured
    from plots import surface_paths

    frame = measured(_paths(store), "toy2d", scale)
    words = (
        "A loss of two weights (dark: high) whose sharp minimum, on the left, is the deeper one, although "
        f"the flat one has {100 * FLAT.mass:.0f} % of the posterior exp(-loss). SGD and AdamW follow the "
        "slope at a single point into whichever minimum catches it; IVON averages the slope over its "
        "posterior, for which the sharp minimum is a dent to pass over, and settles in the flat one with the "
        "width of that minimum as its standard deviation. From starts nearer to the flat minimum there is no "
        "difference, and a posterior that is narrower than the sharp minimum at first (last panel) can be "
        "caught there like a point. Ellipses: the posterior on the way from one of the starts. Surface and "
        "starts are ours, the same at every scale."
    )
    words = " ".join([words, *missing(tuple(RUNS.values()), store)])
    return surface_paths.draw(frame, _loss, folder / "toy2d", words, ellipses_of=ELLIPSES_OF)


TOY2D = Artefact(
    name="toy2d",
    title="IVON and SGD, a sharp and a flat minimum (tutorial).",
    runs=lambda scale: list(RUNS.values()),  # seconds each, so the same at every scale
    render=_toy2d,
)
