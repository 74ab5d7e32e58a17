"""A table as a figure: each seed a dot, mean and standard deviation beside them, the paper's value hollow."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from plots.comparison import compare, pairs_of
from plots.style import add_caption, caption_height, color_of, house_style, new_figure, save_figure
from plots.tables import Described, unit_sign

GREY = "#444444"
MANY = 200  # seeds from which on their dots are an image within the PDF, which would grow by kilobytes each
ABOVE, BELOW = -0.3, 0.3  # of a method's line, in units of the distance between two methods


def draw(
    ours: pd.DataFrame,
    paper: pd.DataFrame,
    metrics: Mapping[str, Described],
    stem: Path,
    caption: str,
    *,
    methods: Sequence[str],
) -> list[Path]:
    """Write the figure and its data (columns of `ours` and `paper`: see `compare`), methods in this order.

    A row of panels per data set and network of ours, a panel per metric, each with a scale of its own.
    Published values are drawn where the paper has the same data set and network.
    """
    if ours.empty:
        raise ValueError("no run to draw")
    numbers = compare(ours, paper, metrics)
    pairs = pairs_of(ours)
    methods = [method for method in methods if method in set(ours["method"])]
    with house_style():
        width = 1.2 + 1.45 * len(metrics)
        height = 0.4 + caption_height(caption, width) + len(pairs) * (0.4 + 0.3 * len(methods))
        fig = new_figure(width, height)
        grid = fig.subplots(len(pairs), len(metrics), squeeze=False, sharey=True)
        for axes, pair in zip(grid, pairs, strict=True):
            for ax, name in zip(axes, metrics, strict=True):
                _draw_panel(ax, _select(ours, pair, name), _select(numbers, pair, name), methods)
            axes[0].set_ylabel("\n".join(pair), fontsize=8.5, fontweight="bold")
        for ax, metric in zip(grid[0], metrics.values(), strict=True):
            ax.set_title(metric.title + unit_sign(metric))
        for ax, metric in zip(grid[-1], metrics.values(), strict=True):
            ax.set_xlabel("better →" if metric.higher_is_better else "← better", fontsize=7.5, color=GREY)
        # The first method on top, as in the table; the axis is shared by all panels.
        grid[0, 0].set_yticks(range(len(methods)), methods)
        grid[0, 0].set_ylim(len(methods) - 0.5, -0.5)
        shown = numbers[[pair in pairs for pair in zip(numbers["dataset"], numbers["model"], strict=True)]]
        handles = _legend(with_paper=bool(shown["paper_value"].notna().any()))
        fig.legend(handles=handles, loc="outside upper right", ncols=3)
        add_caption(fig, caption)
        return save_figure(fig, stem, ours)


def _select(frame: pd.DataFrame, pair: tuple[str, str], metric: str) -> pd.DataFrame:
    return frame[(frame["dataset"] == pair[0]) & (frame["model"] == pair[1]) & (frame["metric"] == metric)]


def _draw_panel(ax: Axes, seeds: pd.DataFrame, numbers: pd.DataFrame, methods: list[str]) -> None:
    colors = color_of(methods)
    for line, method in enumerate(methods):
        color = colors[method]
        values = seeds.loc[seeds["method"] == method, "value"]
        ax.plot(
            values,
            [line + BELOW] * len(values),
            ".",
            color=color,
            alpha=0.55,
            markeredgewidth=0,
            markersize=6,
            rasterized=len(values) > MANY,
        )
        for row in numbers[numbers["method"] == method].itertuples():
            ax.errorbar(row.mean, line, xerr=row.std, fmt="o", color=color, markersize=4.5, capsize=2.5)
            ax.plot(
                row.paper_value,
                line + ABOVE,
                "D",
                markerfacecolor="white",
                markeredgecolor=color,
                markersize=4.5,
            )
    ax.xaxis.set_major_locator(MaxNLocator(nbins=3))
    ax.margins(x=0.12)
    ax.tick_params(axis="x", labelsize=7.5)
    ax.tick_params(axis="y", length=0)


def _legend(*, with_paper: bool) -> list[Line2D]:
    seed = Line2D([], [], linestyle="", marker=".", color=GREY, alpha=0.55, markersize=6, label="one seed")
    mean = Line2D([], [], marker="o", color=GREY, markersize=4.5, label="mean ± standard deviation")
    paper = Line2D([], [], linestyle="", marker="D", color=GREY, mfc="white", markersize=4.5, label="paper")
    return [seed, mean, paper] if with_paper else [seed, mean]
