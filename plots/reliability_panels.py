"""Reliability diagrams side by side: a panel per method, what misses the diagonal as bars."""

from math import ceil
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from plots.curves import only_pair
from plots.reliability import calibration_error, pooled_bins
from plots.style import add_caption, color_of, house_style, in_display_order, new_figure, save_figure

COLUMNS = 3
FEW = 20  # images
SHARE_HEIGHT = 0.25  # of a panel, for the bin with the most images


def draw(frame: pd.DataFrame, stem: Path, caption: str) -> list[Path]:
    """Write the figure and its data.

    frame: columns dataset, model, method, seed, bin, confidence, accuracy, count, as for Figure 1c; one data
    set and network. Seeds are pooled.
    """
    pair = only_pair(frame)
    methods = in_display_order(frame["method"])
    colors, bins = color_of(methods), pooled_bins(frame)
    rows = ceil(len(methods) / COLUMNS)
    with house_style():
        fig = new_figure(7.2, 0.9 + 2.3 * rows)
        axes = fig.subplots(rows, COLUMNS, squeeze=False, sharex=True, sharey=True)
        for ax, method in zip(axes.flat, methods, strict=False):
            error = calibration_error(frame[frame["method"] == method])
            ax.set_title(f"{method}, ECE {error:.3f}")
            _draw_panel(ax, bins.loc[method], colors[method])
        for ax in axes.flat[len(methods) :]:
            ax.set_axis_off()
        for ax in axes[:, 0]:
            ax.set_ylabel("accuracy")
        for column in range(min(COLUMNS, len(methods))):
            lowest = (len(methods) - 1 - column) // COLUMNS
            axes[lowest, column].set_xlabel("confidence")
            axes[lowest, column].tick_params(labelbottom=True)
        fig.suptitle(", ".join(pair), fontsize=9)
        add_caption(
            fig,
            f"{caption} Dots: accuracy of the images of a bin of confidence, at their mean confidence; lines "
            f"to the dotted diagonal: by how much it is missed; faint: fewer than {FEW} images. Grey: share "
            "of the images in each bin, the largest one a quarter of the panel. ECE: mean over seeds.",
        )
        return save_figure(fig, stem, frame)


def _draw_panel(ax: Axes, bins: pd.DataFrame, color: str) -> None:
    ax.set(xlim=(0, 1), ylim=(0, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    ax.bar(
        bins["confidence"],
        SHARE_HEIGHT * bins["count"] / bins["count"].max(),
        width=0.03,
        color="#BBBBBB",
        zorder=1,
    )
    ax.plot([0, 1], [0, 1], color="#444444", linewidth=0.8, linestyle=":", zorder=2)
    # One accuracy is not known from a few images: such bins must not catch the eye.
    for some, alpha in ((bins[bins["count"] >= FEW], 1.0), (bins[bins["count"] < FEW], 0.25)):
        sure, right = some["confidence"], some["accuracy"]
        ax.vlines(sure, sure, right, color=color, alpha=alpha, linewidth=1.2, zorder=3)
        ax.plot(sure, right, linestyle="", marker="o", markersize=3.5, color=color, alpha=alpha, zorder=4)
