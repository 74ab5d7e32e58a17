"""Figure 2c: perplexity of the average prediction against the number of posterior draws."""

from pathlib import Path

import pandas as pd
from matplotlib.ticker import FuncFormatter

from plots.curves import draw_curve
from plots.style import SPARE_COLORS, add_caption, color_of, house_style, marker_of, new_figure, save_figure


def draw(frame: pd.DataFrame, stem: Path, caption: str) -> list[Path]:
    """Write the figure and its data: a panel per model.

    frame: columns dataset, model, method, seed, draws, perplexity; draws 0 is the posterior's mean, a dashed
    line.
    """
    models = list(dict.fromkeys(frame["model"]))
    with house_style():
        fig = new_figure(1.2 + 3.0 * len(models), 3.2)
        for ax, model in zip(fig.subplots(1, len(models), squeeze=False)[0], models, strict=True):
            rows = frame[frame["model"] == model]
            draws, mean = rows[rows["draws"] > 0], rows[rows["draws"] == 0]["perplexity"].mean()
            (method,) = dict.fromkeys(rows["method"])
            look = {"color": color_of([method])[method], "marker": marker_of([method])[method]}
            draw_curve(ax, draws, "draws", "perplexity", label=f"{method}, average over draws", **look)
            ax.axhline(mean, linestyle="--", color=SPARE_COLORS[-1], label=f"{method}@mean")
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.set(xlabel="posterior draws", title=model)
            ax.legend()
        fig.axes[0].set_ylabel("validation perplexity")
        fig.suptitle(frame["dataset"].iloc[0], fontsize=9)
        add_caption(fig, caption)
        return save_figure(fig, stem, frame)
