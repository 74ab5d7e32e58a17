"""What a table of the paper's scale says when our numbers are not the published ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from experiments.engine.artefact import Scale
from experiments.image_classification.methods import RERUN_LR

if TYPE_CHECKING:
    import pandas as pd

    from plots.tables import Described

DEVIATIONS = 2.0

# What is known of the published numbers, by artefact, beside what is known of all of them.
ALL = (
    "the published numbers are of the paper's first version, the settings of the code that was released later"
)
TINYIMAGENET = (
    "TinyImageNet's effective sample size is 200,000 in the released code and 100,000 by the text, "
    "and its settings were changed after the first release"
)
RERUN = (
    "for AdamW the paper ran PreResNet-110 on TinyImageNet again, with another learning rate, to converge; "
    f"that rate is not known, and ours is {RERUN_LR:g}"
)
KNOWN = {
    "table1": f"{TINYIMAGENET}; {RERUN}",
    "table10": f"{TINYIMAGENET}; {RERUN}",
}


def departures(
    name: str, scale: Scale, ours: pd.DataFrame, paper: pd.DataFrame, metrics: Mapping[str, Described]
) -> str:
    """Sentences about means more than two standard deviations from the published ones; empty if none are.

    The deviation is that of the difference of two runs: the root of the summed variances of ours and theirs.
    Other scales than the paper's are other experiments, so nothing is said of them.
    """
    if scale != "paper":
        return ""
    from plots.comparison import compare

    numbers = compare(ours, paper, metrics)
    found = []
    for row in numbers.dropna(subset=["mean", "paper_value"]).itertuples():
        variance = sum(s**2 for s in (row.std, row.paper_std) if not math.isnan(s))
        if variance and abs(row.mean - row.paper_value) > DEVIATIONS * math.sqrt(variance):
            metric = metrics[row.metric]
            place = f"{row.method} on {row.dataset}, {row.model}"
            found.append(
                f"{metric.title} of {place} ({row.mean:.{metric.digits}f}, "
                f"published {row.paper_value:.{metric.digits}f})"
            )
    if not found:
        return ""
    known = "; ".join(filter(None, (ALL, KNOWN.get(name))))
    return f" More than two standard deviations from the published value: {'; '.join(found)}. Known: {known}."
