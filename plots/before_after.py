"""What a treatment does to each method: a hollow dot before it and a full one after, a panel per metric."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from plots.curves import only_pair
from plots.style import add_caption, color_of, house_style, in_display_order, new_figure, save_figure
from plots.tables import Described, unit_sign

GREY = "#444444"
APART = 0.13  # of the two dots' heights from a method's line, in distances between two methods


def draw(
    frame: pd.DataFrame,
    metrics: Mapping[str, Described],
    stem: Path,
    caption: str,
    *,
    sides: tuple[str, str],
) -> list[Path]:
    """Write the figure and its data.

    frame: columns dataset, model, side (one of `sides`: before and after), method, seed, metric, value; one
    data set and network.
    """
    pair = only_pair(frame)
    shown = frame[frame["metric"].isin(list(metrics))]
    methods = in_display_order(shown["method"])
    with house_style():
        fig = new_figure(1.2 + 1.6 * len(metrics), 1.3 + 0.36 * len(methods))
        axes = fig.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
        for ax, (name, metric) in zip(axes, metrics.items(), strict=True):
            _draw_panel(ax, shown[shown["metric"] == name], methods, sides)
            ax.set_title(metric.title + unit_sign(metric))
            ax.set_xlabel("better →" if metric.higher_is_better else "← better", fontsize=7.5, color=GREY)
        axes[0].set_yticks(range(len(methods)), methods)
        axes[0].set_ylim(len(methods) - 0.5, -0.5)
        fig.suptitle(", ".join(pair), fontsize=9)
        handles = [
            Line2D([], [], color=GREY, marker="o", markersize=4.5, mfc=fill, label=side)
            for side, fill in zip(sides, ("white", GREY), strict=True)
        ]
        fig.legend(handles=handles, loc="outside upper right", ncols=2)
        add_caption(fig, f"{caption} Dots and lines: mean and standard deviation over seeds.")
        return save_figure(fig, stem, shown)


def _draw_panel(ax: Axes, rows: pd.DataFrame, methods: list[str], sides: tuple[str, str]) -> None:
    over_seeds = rows.groupby(["method", "side"])["value"].agg(["mean", "std"])
    for line, (method, color) in enumerate(color_of(methods).items()):
        for side, place, fill in ((sides[0], -APART, "white"), (sides[1], APART, color)):
            if (method, side) in over_seeds.index:
                mean, spread = over_seeds.loc[(method, side)]
                look = {"color": color, "markerfacecolor": fill, "markersize": 4.5, "capsize": 2.5}
                ax.errorbar(mean, line + place, xerr=spread, fmt="o", **look)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=3))
    ax.margins(x=0.12)
    ax.tick_params(axis="x", labelsize=7.5)
    ax.tick_params(axis="y", length=0)
