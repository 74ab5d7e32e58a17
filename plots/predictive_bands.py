"""Figure 3c: what methods say of a function between the data, a panel per method."""

from pathlib import Path

import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from plots.style import add_caption, color_of, house_style, new_figure, save_figure

DATA, TRUTH, OTHER = "#222222", "#888888", "#666666"
SIGMA_ALPHAS = {2: 0.18, 1: 0.3}  # the band of one standard deviation lies on that of two


def draw(frame: pd.DataFrame, stem: Path, caption: str) -> list[Path]:
    """frame: method, part, x, y, std, observed_std, sorted by x.

    `part` is "data" (y: the targets), "truth" (y: the function behind them) or "curve" (y: the predicted
    mean, std: its standard deviation, missing for a point estimate, observed_std: that of a new observation).
    """
    methods = list(dict.fromkeys(frame["method"]))
    colors = color_of(methods)
    known = frame[frame["part"] != "curve"]
    low, high = known["y"].min(), known["y"].max()
    with house_style():
        fig = new_figure(2.6 * len(methods), 3.0)
        axes = fig.subplots(1, len(methods), squeeze=False, sharex=True, sharey=True)[0]
        for ax, method in zip(axes, methods, strict=True):
            rows = frame[frame["method"] == method]
            data, truth, curve = (rows[rows["part"] == part] for part in ("data", "truth", "curve"))
            for sigmas, alpha in SIGMA_ALPHAS.items():
                lower, upper = (curve["y"] + sign * sigmas * curve["std"] for sign in (-1, 1))
                ax.fill_between(curve["x"], lower, upper, color=colors[method], alpha=alpha, linewidth=0)
            for sign in (-1, 1):
                edge = curve["y"] + sign * 2 * curve["observed_std"]
                ax.plot(curve["x"], edge, color=colors[method], linewidth=0.6, linestyle=(0, (4, 2)))
            ax.plot(truth["x"], truth["y"], color=TRUTH, linewidth=0.9, linestyle=":")
            ax.plot(curve["x"], curve["y"], color=colors[method])
            ax.plot(data["x"], data["y"], ".", color=DATA, markersize=2.5)
            ax.set(title=method, xlabel="input", xlim=(curve["x"].min(), curve["x"].max()))
            ax.set_ylim(low - 0.7 * (high - low) / 2, high + 0.7 * (high - low) / 2)
        axes[0].set_ylabel("target")
        fig.legend(handles=_legend(), loc="outside upper center", ncols=6)
        add_caption(fig, caption)
        return save_figure(fig, stem, frame)


def _legend() -> list[Line2D | Patch]:
    return [
        Line2D([], [], color=DATA, marker=".", linestyle="", label="data"),
        Line2D([], [], color=TRUTH, linewidth=0.9, linestyle=":", label="truth"),
        Line2D([], [], color=OTHER, label="mean"),
        Patch(color=OTHER, alpha=0.45, linewidth=0, label="1 std"),
        Patch(color=OTHER, alpha=0.18, linewidth=0, label="2 std"),
        Line2D([], [], color=OTHER, linewidth=0.6, linestyle=(0, (4, 2)), label="2 std with noise"),
    ]
