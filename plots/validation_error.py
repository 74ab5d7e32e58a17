"""Figure 1b: validation error while training, a line per method."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from plots.curves import draw_curve, logarithmic, only_pair, with_bands
from plots.style import (
    add_caption,
    color_of,
    house_style,
    in_display_order,
    marker_of,
    new_figure,
    save_figure,
)


def draw(frame: pd.DataFrame, paper: pd.DataFrame, stem: Path, caption: str) -> list[Path]:
    """Write the figure and its data.

    frame: columns dataset, model, method, seed, epoch, step, error; one row per evaluation during training.
    `error` is in percent, `step` counts updates of the weights; one data set and network.
    paper: published values in the columns of `results/paper`; `final_val_error` of the same data set and
    network becomes a mark at the end of training, others are not comparable and not drawn.
    """
    pair = only_pair(frame)
    methods = in_display_order(frame["method"])
    colors, markers = color_of(methods), marker_of(methods)
    with house_style():
        fig = new_figure(5.2, 3.6)
        ax = fig.subplots()
        for method in methods:
            rows = frame[frame["method"] == method]
            draw_curve(ax, rows, "step", "error", color=colors[method], marker=markers[method], label=method)
        end = frame["step"].max()
        for row in _published_ends(paper, pair).itertuples():
            color = color_of([row.method])[row.method]
            label = f"{row.method}, paper: {row.value:g} %"
            ax.plot([end], [row.value], linestyle="", clip_on=False, zorder=5, label=label, **_hollow(color))
        positive = frame.loc[frame["error"] > 0, "error"]
        if len(positive):
            logarithmic(ax, lowest=0.8 * positive.min())
        ax.set_xlim(left=0, right=1.02 * end)  # with room for the last markers
        ax.set(xlabel="step", ylabel="validation error (%)", title=", ".join(pair))
        ax.xaxis.set_major_formatter(FuncFormatter(_in_thousands))
        _add_epochs(ax, frame)
        ax.legend()
        add_caption(fig, with_bands(caption, frame))
        return save_figure(fig, stem, frame)


def _published_ends(paper: pd.DataFrame, pair: tuple[str, str]) -> pd.DataFrame:
    same = (
        (paper["dataset"] == pair[0]) & (paper["model"] == pair[1]) & (paper["metric"] == "final_val_error")
    )
    return paper[same].dropna(subset="value")


def _hollow(color: str) -> dict:
    return {
        "marker": "D",
        "markersize": 7,
        "markerfacecolor": "white",
        "markeredgecolor": color,
        "markeredgewidth": 1.4,
    }


def _in_thousands(steps: float, _: int) -> str:
    return f"{steps:g}" if steps < 10_000 else f"{steps / 1000:g}k"


def _add_epochs(ax: Axes, frame: pd.DataFrame) -> None:
    """A second axis on top that counts passes over the training set."""
    last = frame.loc[frame["step"].idxmax()]
    steps_per_epoch = last["step"] / last["epoch"]
    top = ax.secondary_xaxis(
        "top", functions=(lambda step: step / steps_per_epoch, lambda epoch: epoch * steps_per_epoch)
    )
    top.set_xlabel("epoch")
