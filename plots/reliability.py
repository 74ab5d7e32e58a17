"""Figure 1c: the reliability diagram, accuracy against confidence in bins of equal width."""

import re
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from plots.curves import only_pair
from plots.style import (
    add_caption,
    color_of,
    house_style,
    in_display_order,
    marker_of,
    new_figure,
    save_figure,
)

BIN = ["method", "bin"]


def draw(frame: pd.DataFrame, paper: pd.DataFrame, stem: Path, caption: str) -> list[Path]:
    """Write the figure and its data.

    frame: columns dataset, model, method, seed, bin, confidence, accuracy, count; one row per bin, whose mean
    confidence and accuracy are fractions (missing where the count is 0); one data set and network. Seeds are
    pooled.
    paper: published values in the columns of `results/paper`, metrics "true_prob_at_confidence_..."; drawn as
    faint marks and named with their data set and network, which may be others than ours. May be empty.
    """
    pair = only_pair(frame)
    methods = in_display_order(frame["method"])
    colors, markers = color_of(methods), marker_of(methods)
    with house_style():
        fig = new_figure(4.6, 6.0)
        ax, share = fig.subplots(2, 1, sharex=True, height_ratios=[5, 1])
        ax.plot([0, 1], [0, 1], color="#444444", linewidth=0.8, linestyle=":", label="perfectly calibrated")
        pooled = pooled_bins(frame)
        for method in methods:
            bins = pooled.loc[method]
            label = f"{method}, ECE {calibration_error(frame[frame['method'] == method]):.3f}"
            look = {"color": colors[method], "marker": markers[method], "markersize": 4}
            ax.plot(bins["confidence"], bins["accuracy"], label=label, **look)
            share.plot(bins["confidence"], 100 * bins["count"] / bins["count"].sum(), **look)
        _draw_published(ax, published_points(paper), pair)
        ax.set(ylabel="accuracy", title=", ".join(pair), xlim=(0, 1), ylim=(0, 1))
        share.set(xlabel="confidence", ylabel="share (%)", ylim=(0, None))
        fig.legend(loc="outside upper center", ncols=2)
        add_caption(fig, caption)
        return save_figure(fig, stem, frame)


def calibration_error(frame: pd.DataFrame) -> float:
    """The expected calibration error of one method from its bins, averaged over seeds."""
    filled = frame[frame["count"] > 0]
    gaps = filled.assign(gap=filled["count"] * (filled["accuracy"] - filled["confidence"]).abs())
    sums = gaps.groupby("seed")[["gap", "count"]].sum()
    return float((sums["gap"] / sums["count"]).mean())


def published_points(paper: pd.DataFrame) -> pd.DataFrame:
    """The points of a published diagram: columns dataset, model, method, confidence, accuracy."""
    confidence = paper["metric"].str.extract(
        rf"^{re.escape('true_prob_at_confidence_')}([\d.]+)$", expand=False
    )
    points = paper.assign(confidence=pd.to_numeric(confidence), accuracy=pd.to_numeric(paper["value"]))
    return points.dropna(subset=["confidence", "accuracy"])[
        ["dataset", "model", "method", "confidence", "accuracy"]
    ]


def pooled_bins(frame: pd.DataFrame) -> pd.DataFrame:
    """Bins over all seeds, means weighted by count; index method and bin."""
    filled = frame[frame["count"] > 0]
    weighted = filled.assign(**{name: filled[name] * filled["count"] for name in ("confidence", "accuracy")})
    sums = weighted.groupby(BIN)[["confidence", "accuracy", "count"]].sum()
    return sums.assign(**{name: sums[name] / sums["count"] for name in ("confidence", "accuracy")})


def _draw_published(ax: Axes, points: pd.DataFrame, pair: tuple[str, str]) -> None:
    groups = dict(list(points.groupby(["dataset", "model", "method"])))
    order = in_display_order(points["method"])
    for (dataset, model, method), rows in sorted(groups.items(), key=lambda group: order.index(group[0][2])):
        where = "" if (dataset, model) == pair else f" ({dataset}, {model})"
        ax.plot(
            rows["confidence"],
            rows["accuracy"],
            linestyle="",
            marker="o",
            markersize=5,
            markerfacecolor="none",
            markeredgecolor=color_of([method])[method],
            alpha=0.45,
            label=f"{method}, paper{where}",
        )
