"""Figures 3a and 3b: predictive entropy of test images and of images from elsewhere, a ridge per method."""

from pathlib import Path

import numpy as np
import pandas as pd

from plots.style import add_caption, house_style, in_display_order, new_figure, save_figure

INSIDE, OUTSIDE = "#CC3311", "#888888"  # the paper's red and grey
HEIGHT = 0.9  # of a ridge, in distances between two: translucent ones must not overlap


def draw(frame: pd.DataFrame, stem: Path, caption: str, *, most_nats: float) -> list[Path]:
    """frame: dataset, method, side ("inside", "outside"), bin, bins, count; pooled over seeds.

    Bins are of equal width, from 0 to `most_nats`. A panel a data set.
    """
    ridges = ["dataset", "method", "side"]
    pooled = frame.groupby([*ridges, "bin", "bins"], sort=False)["count"].sum().reset_index()
    pooled["share"] = pooled["count"] / pooled.groupby(ridges)["count"].transform("sum")
    datasets, methods = list(dict.fromkeys(pooled.dataset)), in_display_order(pooled.method)
    with house_style():
        fig = new_figure(3.6 * len(datasets), 0.9 + 0.62 * len(methods))
        axes = fig.subplots(1, len(datasets), squeeze=False, sharey=True)[0]
        for ax, dataset in zip(axes, datasets, strict=True):
            panel = pooled[pooled.dataset == dataset]
            height = HEIGHT / np.sqrt(panel.share.max())
            for level, method in enumerate(reversed(methods)):
                for side, color in (("outside", OUTSIDE), ("inside", INSIDE)):
                    ridge = panel[(panel.method == method) & (panel.side == side)].sort_values("bin")
                    if ridge.empty:  # not looked at yet
                        continue
                    edges = np.linspace(0, most_nats, int(ridge.bins.iloc[0]) + 1)
                    # The root, as most test images are in the first bin and nothing else would be seen.
                    tops = level + height * np.sqrt(ridge.share.to_numpy())
                    ax.stairs(
                        tops, edges, baseline=level, fill=True, color=color, alpha=0.55, zorder=10 - level
                    )
            ax.set_title(dataset)
            ax.set_xlabel("predictive entropy (nats)")
            ax.set_yticks(range(len(methods)), list(reversed(methods)))
            ax.grid(visible=False, axis="y")
        axes[0].stairs([0], [0, 0], fill=True, color=INSIDE, alpha=0.55, label="test images")
        axes[0].stairs([0], [0, 0], fill=True, color=OUTSIDE, alpha=0.55, label="images from elsewhere")
        fig.legend(loc="outside upper center", ncols=2)
        add_caption(fig, f"{caption} Seeds are pooled. Heights are square roots of shares.")
        return save_figure(fig, stem, pooled)
