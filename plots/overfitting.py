"""Overfitting: loss and error on the training and the test set while training, a colour per method."""

from pathlib import Path

import pandas as pd
from matplotlib.lines import Line2D

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

PANELS = {"nll": "NLL (nats)", "error": "error (%)"}
LINE_STYLES = {"train": "--", "test": "-"}


def draw(frame: pd.DataFrame, stem: Path, caption: str) -> list[Path]:
    """Write the figure and its data.

    frame: columns dataset, model, method, seed, epoch, split, nll, error; one row per evaluation. `split` is
    "train" or "test", `nll` in nats, `error` in percent; one data set and network. Values may be missing.
    """
    pair = only_pair(frame)
    methods = in_display_order(frame["method"])
    colors, markers = color_of(methods), marker_of(methods)
    with house_style():
        fig = new_figure(7.4, 3.3)
        for ax, (column, title) in zip(fig.subplots(1, 2), PANELS.items(), strict=True):
            for method in methods:
                for split, style in LINE_STYLES.items():
                    rows = frame[(frame["method"] == method) & (frame["split"] == split)]
                    look = {"color": colors[method], "marker": markers[method], "linestyle": style}
                    draw_curve(ax, rows, "epoch", column, **look)
            # Training loss may fall by many powers of ten; what happens to the test curves must stay visible.
            shown = frame.loc[(frame["split"] == "test") & (frame[column] > 0), column]
            if len(shown):
                logarithmic(ax, lowest=shown.min() / 20)
            ax.set(xlabel="epoch", ylabel=title)
            ax.set_xlim(left=0, right=1.02 * frame["epoch"].max())  # with room for the last markers
        fig.suptitle(", ".join(pair), fontsize=9)
        handles = [Line2D([], [], color=colors[m], marker=markers[m], markersize=4, label=m) for m in methods]
        handles += [
            Line2D([], [], color="#444444", linestyle=s, label=split) for split, s in LINE_STYLES.items()
        ]
        fig.legend(handles=handles, loc="outside right upper")
        add_caption(fig, with_bands(caption, frame))
        return save_figure(fig, stem, frame)
