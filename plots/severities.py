"""Figure 7: metrics under corruption against its severity, a panel a metric and a line a method."""

from collections.abc import Mapping
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
from plots.tables import Described, unit_sign

APART = 0.09  # severities between the marks of two methods, so that no error bar hides another


def draw(frame: pd.DataFrame, metrics: Mapping[str, Described], stem: Path, caption: str) -> list[Path]:
    """Write the figure and its data.

    frame: columns dataset, model, method, seed, severity, metric, value; one data set and network. Metrics
    that are not among these four are not drawn.
    """
    pair = only_pair(frame)
    shown = frame[frame["metric"].isin(list(metrics))]
    with house_style():
        fig = new_figure(7.4, 5.4)
        axes = fig.subplots(2, 2, sharex=True)
        for ax, (name, metric) in zip(axes.flat, metrics.items(), strict=True):
            _draw_panel(ax, shown[shown["metric"] == name], in_display_order(shown["method"]))
            ax.set_title(f"{metric.title}{unit_sign(metric)} {'↑' if metric.higher_is_better else '↓'}")
        for ax in axes[-1]:
            ax.set_xlabel("severity")
            ax.set_xticks(sorted(shown["severity"].unique()))
        fig.suptitle(", ".join(pair), fontsize=9)
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper")
        add_caption(fig, f"{caption} Marks and bars: mean and standard deviation over seeds.")
        return save_figure(fig, stem, shown)


def _draw_panel(ax: Axes, rows: pd.DataFrame, methods: list[str]) -> None:
    colors, markers = color_of(methods), marker_of(methods)
    for place, method in enumerate(methods):
        over_seeds = rows[rows["method"] == method].groupby("severity")["value"].agg(["mean", "std"])
        ax.errorbar(
            over_seeds.index + APART * (place - (len(methods) - 1) / 2),
            over_seeds["mean"],
            yerr=over_seeds["std"],
            color=colors[method],
            marker=markers[method],
            markersize=4,
            linewidth=1.1,
            capsize=1.5,
            elinewidth=0.8,
            label=method,
        )
