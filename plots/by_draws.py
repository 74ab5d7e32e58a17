"""Figure 4: accuracy and NLL against the number of posterior draws, at test and in training."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from plots.curves import draw_curve, only_pair, with_bands
from plots.style import add_caption, color_of, house_style, marker_of, new_figure, save_figure

PANELS = ("test draws", "training draws")
METRICS = {"top1_acc": "accuracy (%)", "nll": "NLL (nats)"}
AVERAGE, MEAN = "IVON", "IVON@mean"
COLORS, MARKERS = color_of((AVERAGE, MEAN)), marker_of((AVERAGE, MEAN))


def draw(frame: pd.DataFrame, paper: pd.DataFrame, stem: Path, caption: str) -> list[Path]:
    """Write the figure and its data, a column of panels for draws at test and one for those in training.

    frame: columns dataset, model, varied (of PANELS), method (the average over draws, or the mean), seed,
    draws, top1_acc, nll; one data set and network. The mean without a number of draws is a level line; the
    band around the average is one standard deviation over seeds.
    paper: published values in the same columns without seed; those of this data set and network are marks.
    """
    dataset, model = only_pair(frame)
    comparable = paper[(paper["dataset"] == dataset) & (paper["model"] == model)]
    with house_style():
        fig = new_figure(6.8, 5.0)
        grid = fig.subplots(len(METRICS), len(PANELS), sharey="row", sharex="col")
        for row, (metric, title) in zip(grid, METRICS.items(), strict=True):
            for ax, varied in zip(row, PANELS, strict=True):
                _draw_panel(ax, frame[frame["varied"] == varied], metric)
                _mark_published(ax, comparable[comparable["varied"] == varied], metric)
            row[0].set_ylabel(title)
            row[0].yaxis.set_major_locator(MaxNLocator(6))
        for ax, varied in zip(grid[-1], PANELS, strict=True):
            ax.set_xlabel(varied)
            ax.set_xscale("log", base=2)
            counts = frame.loc[frame["varied"] == varied, "draws"].dropna().unique()
            ax.set_xticks(sorted(int(count) for count in counts))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        grid[0, 0].legend(loc="best")
        fig.suptitle(f"{dataset}, {model}", fontsize=9)
        add_caption(fig, with_bands(caption, frame))
        return save_figure(fig, stem, _together(frame, comparable))


def _draw_panel(ax: Axes, rows: pd.DataFrame, metric: str) -> None:
    average, mean = (rows[rows["method"] == method] for method in (AVERAGE, MEAN))
    if len(average):
        look = {"color": COLORS[AVERAGE], "marker": MARKERS[AVERAGE], "label": AVERAGE}
        draw_curve(ax, average.astype({"draws": int}), "draws", metric, **look)
    # Without a band: the networks are the same ones, and so is the better part of their spread.
    line = {"color": COLORS[MEAN], "linestyle": "--", "label": MEAN}
    by_training = mean.dropna(subset="draws").groupby("draws")[metric].mean()
    if len(by_training):
        ax.plot(by_training.index.astype(int), by_training, **line)
    elif len(mean):
        ax.axhline(mean[metric].mean(), **line)


def _mark_published(ax: Axes, rows: pd.DataFrame, metric: str) -> None:
    counted = rows.dropna(subset="draws")
    if len(counted):
        ax.plot(
            counted["draws"].astype(int),
            counted[metric],
            linestyle="",
            marker="D",
            markersize=6,
            markerfacecolor="none",
            markeredgecolor=COLORS[AVERAGE],
            label=f"{AVERAGE}, paper",
        )
    for value in rows.loc[rows["draws"].isna(), metric]:
        ax.axhline(value, linestyle=":", color=COLORS[MEAN], label=f"{MEAN}, paper")


def _together(frame: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """What is drawn, with a column that says whose it is."""
    parts = [frame.assign(source="ours"), published.assign(source="paper")]
    return pd.concat([part for part in parts if len(part)], ignore_index=True)
