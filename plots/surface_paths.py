"""Paths of methods over a loss of two weights, with the posterior that a path carries along; a panel each."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

from plots.style import add_caption, house_style, new_figure, save_figure

IN_SHARP, IN_FLAT, NEITHER = "#CC3311", "#0077BB", "#555555"  # where a path ends
LEVELS = (-1.5, -0.5, 0, 0.5, 1, 2, 3, 4, 6, 8, 11, 14, 18, 23)  # nats
POINTS = 301  # of the contours, along each axis
ELLIPSES_AT = (0, 10, 30, 100)  # steps, and the last one
PER_ROW = 2


def draw(
    frame: pd.DataFrame,
    loss: Callable[[np.ndarray, np.ndarray], np.ndarray],
    stem: Path,
    caption: str,
    *,
    ellipses_of: int,
) -> list[Path]:
    """frame: panel, start, step, x, y, std_x, std_y, end; a row a point of a path, in the order of steps.

    `start` numbers the paths, `end` is "sharp", "flat" or "neither"; the standard deviations are missing
    where there is no posterior. `ellipses_of`: the start whose posterior is drawn at several steps.
    """
    panels = list(dict.fromkeys(frame["panel"]))
    x, y = (_around(frame[axis]) for axis in ("x", "y"))
    height = loss(*np.meshgrid(x, y))
    rows = -(-len(panels) // PER_ROW)
    with house_style():
        fig = new_figure(3.8 * PER_ROW, 2.4 * rows + 1.0)
        axes = fig.subplots(rows, PER_ROW, squeeze=False, sharex=True, sharey=True)
        for ax in axes[-1]:
            ax.set_xlabel("first weight")
        for ax in axes[:, 0]:
            ax.set_ylabel("second weight")
        for ax, panel in zip(axes.flat, panels, strict=False):
            ax.contourf(x, y, height, levels=LEVELS, cmap="Greys", alpha=0.5, extend="both")
            paths = frame[frame["panel"] == panel]
            for number, path in paths.groupby("start", sort=False):
                _draw_path(ax, path, with_ellipses=number == ellipses_of)
            ends = paths.groupby("start")["end"].first()
            ax.set_title(f"{panel}: {sum(ends == 'sharp')} of {len(ends)} end in the sharp minimum")
            ax.set_aspect("equal")
            ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
            ax.grid(visible=False)
        fig.legend(handles=_legend(set(frame["end"])), loc="outside upper center", ncols=3)
        add_caption(fig, caption)
        return save_figure(fig, stem, frame)


def _around(values: pd.Series) -> np.ndarray:
    """An axis that holds all paths, with a margin."""
    return np.linspace(values.min() - 0.5, values.max() + 0.5, POINTS)


def _draw_path(ax: Axes, path: pd.DataFrame, *, with_ellipses: bool) -> None:
    color = {"sharp": IN_SHARP, "flat": IN_FLAT}.get(path["end"].iloc[0], NEITHER)
    first, last = path.iloc[0], path.iloc[-1]
    ax.plot(path["x"], path["y"], color=color, linewidth=0.8, alpha=0.8)
    ax.plot(first["x"], first["y"], "o", color=color, markersize=2.5)
    ax.plot(last["x"], last["y"], "*", color=color, markersize=6, zorder=5)
    if with_ellipses and path["std_x"].notna().all():
        for _, point in path[path["step"].isin((*ELLIPSES_AT, last["step"]))].iterrows():
            size = 2 * point["std_x"], 2 * point["std_y"]
            ax.add_patch(
                Ellipse((point["x"], point["y"]), *size, fill=False, color="black", linewidth=0.8, zorder=4)
            )


def _legend(ends: set[str]) -> list[Line2D]:
    paths = {
        "sharp": (IN_SHARP, "ends in the sharp minimum"),
        "flat": (IN_FLAT, "ends in the flat minimum"),
        "neither": (NEITHER, "ends in neither"),
    }
    star = {"marker": "*", "markersize": 6, "linewidth": 0.8}
    return [
        Line2D([], [], color="black", marker="o", markersize=2.5, linestyle="", label="start"),
        *(Line2D([], [], color=c, label=label, **star) for end, (c, label) in paths.items() if end in ends),
        Line2D(
            [], [], color="black", marker="o", fillstyle="none", linestyle="", label="IVON's posterior, 1 std"
        ),
    ]
