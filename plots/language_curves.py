"""Figures 1a, 2a and 2b: perplexity and training loss of language models over training."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from plots.curves import draw_curve, with_bands
from plots.style import (
    add_caption,
    color_of,
    house_style,
    in_display_order,
    marker_of,
    new_figure,
    save_figure,
)

STYLES = ("-", "--", ":", "-.")


def perplexity(
    frame: pd.DataFrame, paper: pd.DataFrame, stem: Path, caption: str, *, hours: bool
) -> list[Path]:
    """Write validation perplexity against tokens and, if `hours`, against hours, a line a seed.

    frame: columns dataset, model, method, seed, tokens, hours, perplexity; one row a look at the validation
    text. A colour a method, a style a model. paper: `val_perplexity_at_100k_steps` of the same data set and
    models become marks at the end of training.
    """
    with house_style():
        fig = new_figure(7.4 if hours else 5.6, 3.4)
        axes = fig.subplots(1, 1 + hours, sharey=True, squeeze=False)[0]
        left = axes[0]
        styles = _styles(frame, "model")
        _draw_lines(left, frame, "tokens", "perplexity", "model", styles)
        for right in axes[1:]:
            right.set_xlabel("hours of training")
            for (model, method), rows in frame.groupby(["model", "method"], sort=False):
                for _, run in rows.groupby("seed"):
                    line = {"linestyle": styles[model], "color": color_of([method])[method]}
                    right.plot(run["hours"], run["perplexity"], **line)
        same = paper[
            (paper["metric"] == "val_perplexity_at_100k_steps")
            & paper["dataset"].isin(frame["dataset"])
            & paper["model"].isin(frame["model"])
        ].dropna(subset="value")
        for row in same.itertuples():
            look = {"color": color_of([row.method])[row.method], "markerfacecolor": "white", "clip_on": False}
            left.plot([frame["tokens"].max()], [row.value], "D", markersize=5, **look)
        for ax in axes:
            _scale(ax, frame["perplexity"])
            ax.set_xlim(left=0)
        left.set(xlabel="tokens", ylabel="validation perplexity")
        left.xaxis.set_major_formatter(EngFormatter())
        _finish(fig, frame, "model", styles, with_paper=len(same) > 0)
        add_caption(fig, with_bands(caption, frame))
        return save_figure(fig, stem, frame)


def training_loss(frame: pd.DataFrame, stem: Path, caption: str, *, style_by: str) -> list[Path]:
    """Write the mean training loss (nats) between two looks against steps: a style a value of `style_by`.

    frame: columns dataset, model, method, precision, seed, step, train_nll.
    """
    with house_style():
        fig = new_figure(5.6, 3.4)
        ax = fig.subplots()
        styles = _styles(frame, style_by)
        _draw_lines(ax, frame, "step", "train_nll", style_by, styles)
        _scale(ax, frame["train_nll"])
        ax.set_xlim(left=0)
        ax.set(xlabel="step", ylabel="training loss (nats)")
        _finish(fig, frame, style_by, styles, with_paper=False)
        add_caption(fig, with_bands(caption, frame))
        return save_figure(fig, stem, frame)


def _styles(frame: pd.DataFrame, by: str) -> dict[str, str]:
    return {name: STYLES[i % len(STYLES)] for i, name in enumerate(dict.fromkeys(frame[by]))}


def _draw_lines(ax: Axes, frame: pd.DataFrame, x: str, y: str, by: str, styles: dict[str, str]) -> None:
    colors, markers = color_of(frame["method"].unique()), marker_of(frame["method"].unique())
    for (name, method), rows in frame.groupby([by, "method"], sort=False):
        look = {"color": colors[method], "marker": markers[method], "linestyle": styles[name]}
        draw_curve(ax, rows, x, y, **look)


def _scale(ax: Axes, values: pd.Series) -> None:
    """Logarithmic, from the best value to that which three quarters of the looks stay below."""
    ax.set_yscale("log")
    low, high = values.min(), values.quantile(0.75)
    ax.set_ylim(low * 0.985, max(high, low * 1.1) * 1.02)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=6))
    ax.yaxis.set_minor_locator(MaxNLocator(nbins=1))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(FuncFormatter(lambda _value, _: ""))


def _finish(fig, frame: pd.DataFrame, by: str, styles: dict[str, str], *, with_paper: bool) -> None:
    methods = in_display_order(frame["method"])
    colors, markers = color_of(methods), marker_of(methods)
    handles = [Line2D([], [], color=colors[m], marker=markers[m], markersize=4, label=m) for m in methods]
    if len(styles) > 1 or by == "precision":  # which is what that figure is about
        handles += [Line2D([], [], color="#444444", linestyle=s, label=name) for name, s in styles.items()]
    if with_paper:
        handles.append(Line2D([], [], linestyle="", marker="D", color="#444444", mfc="white", label="paper"))
    fig.legend(handles=handles, loc="outside right upper")
    # Over the axes, as a title of the whole figure would run into the legend.
    shown = frame["dataset"].iloc[0]
    if frame["model"].nunique() == 1:
        shown += f"\n{frame['model'].iloc[0]}"
    fig.axes[0].set_title(shown, loc="left")
