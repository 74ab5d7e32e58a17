"""Figure 2c: perplexity of the average prediction against the number of posterior draws."""

from pathlib import Path

import pandas as pd
from matplotlib.ticker import FuncFormatter

from plots.curves import draw_curve, with_bands
from plots.style import add_caption, color_of, house_style, marker_of, new_figure, save_figure


def draw(frame: pd.DataFrame, stem: Path, caption: str) -> list[Path]:
    """Write the figure and its data: a panel per model, in percent of the perplexity at the mean.

    frame: columns dataset, model, method, seed, draws, perplexity; draws 0 is the posterior's mean. Each seed
    is compared with its own, as seeds differ by more than draws do.
    """
    at_mean = frame[frame["draws"] == 0].set_index(["model", "seed"])["perplexity"]
    keys = pd.MultiIndex.from_frame(frame[["model", "seed"]])
    change = 100 * (frame["perplexity"] / at_mean.reindex(keys).to_numpy() - 1)
    models = list(dict.fromkeys(frame["model"]))
    with house_style():
        fig = new_figure(1.2 + 3.0 * len(models), 3.2)
        for ax, model in zip(fig.subplots(1, len(models), squeeze=False)[0], models, strict=True):
            rows = frame.assign(change=change)[frame["model"] == model]
            (method,) = dict.fromkeys(rows["method"])
            look = {"color": color_of([method])[method], "marker": marker_of([method])[method]}
            draw_curve(
                ax, rows[rows["draws"] > 0], "draws", "change", label=f"{method}, average over draws", **look
            )
            mean = f"{method}@mean"
            ax.axhline(0, linestyle="--", color=color_of([mean])[mean], label=mean)
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.set(xlabel="posterior draws", title=model)
            ax.legend()
        fig.axes[0].set_ylabel("validation perplexity,\nchange from the mean's (%)")
        fig.suptitle(frame["dataset"].iloc[0], fontsize=9)
        add_caption(fig, with_bands(caption, frame))
        return save_figure(fig, stem, frame)
