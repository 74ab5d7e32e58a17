"""Curves over training: the mean over seeds as a line, one standard deviation around it as a band."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter


def only_pair(frame: pd.DataFrame) -> tuple[str, str]:
    """The one (data set, network) that a figure of curves shows."""
    pairs = frame[["dataset", "model"]].drop_duplicates()
    if len(pairs) != 1:
        raise ValueError(f"a figure shows one data set and network, not {pairs.to_dict('records')}")
    return tuple(pairs.iloc[0])


def draw_curve(ax: Axes, frame: pd.DataFrame, x: str, y: str, *, color: str, marker: str, **line) -> None:
    """Draw column y against column x, averaged over the seeds of each x; `line` goes to the line itself."""
    over_seeds = frame.dropna(subset=y).groupby(x)[y].agg(["mean", "std"])
    ax.plot(
        over_seeds.index,
        over_seeds["mean"],
        color=color,
        marker=marker,
        markersize=4,
        markevery=max(1, len(over_seeds) // 8),
        **line,
    )
    # A single seed has no spread: NaN draws no band.
    lower, upper = (over_seeds["mean"] + sign * over_seeds["std"] for sign in (-1, 1))
    ax.fill_between(over_seeds.index, lower, upper, color=color, alpha=0.18, linewidth=0)


def with_bands(caption: str, frame: pd.DataFrame) -> str:
    """The caption, with what the bands are where there are any."""
    return f"{caption} Bands: one standard deviation over seeds." if frame["seed"].nunique() > 1 else caption


def logarithmic(ax: Axes, *, lowest: float) -> None:
    """A logarithmic y axis labelled in plain numbers; it goes down to the data, or to `lowest` at most."""
    ax.set_yscale("log", nonpositive="clip")
    ax.autoscale(axis="y")
    top = ax.dataLim.y1 * 1.15
    bottom = max(lowest, 0.87 * ax.dataLim.minposy, 1e-6)
    ax.set_ylim(bottom=bottom, top=max(top, 2 * bottom))
    subs = (
        range(1, 10)
        if top / bottom < 8
        else (1, 2, 3, 5)
        if top / bottom < 50
        else (1, 3)
        if top / bottom < 1000
        else (1,)
    )
    ax.yaxis.set_major_locator(LogLocator(subs=subs, numticks=15))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
