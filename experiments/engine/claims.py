"""The paper's claims as code: records in, verdict out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from experiments.metrics import METRICS

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["holds", "does not hold", "not enough evidence"]
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Claim:
    """`method` is better than `peer` in `metric`, on every data set and network of the artefact."""

    method: str
    peer: str
    metric: str

    @property
    def statement(self) -> str:
        metric = METRICS[self.metric]
        comparison = "higher" if metric.higher_is_better else "lower"
        return f"{self.method} has {comparison} {metric.title} than {self.peer}"


def judge(claim: Claim, frame: pd.DataFrame) -> list[dict[str, object]]:
    """One row for each data set and network in `frame` (dataset, model, method, metric, value, seed).

    The interval is Welch's, at 95 %, for the difference of means over seeds, signed so that positive favours
    the claim.
    """
    rows: list[dict[str, object]] = []
    chosen = frame[frame.metric == claim.metric]
    for (dataset, model), block in chosen.groupby(["dataset", "model"], sort=False):
        ours = block[block.method == claim.method].value
        peers = block[block.method == claim.peer].value
        sign = 1.0 if METRICS[claim.metric].higher_is_better else -1.0
        difference, low, high = _difference(sign * ours, sign * peers)
        verdict: Verdict = "holds" if low > 0 else "does not hold" if high < 0 else "not enough evidence"
        rows.append(
            {
                "claim": claim.statement,
                "dataset": dataset,
                "model": model,
                "difference": difference,
                "low": low,
                "high": high,
                "seeds": f"{len(ours)}/{len(peers)}",
                "verdict": verdict,
            }
        )
    return rows


def _difference(ours: pd.Series, peers: pd.Series) -> tuple[float, float, float]:
    """Difference of means and its interval; the interval is unbounded with fewer than two seeds a side."""
    difference = ours.mean() - peers.mean()
    if min(len(ours), len(peers)) < 2:
        return difference, float("-inf"), float("inf")
    from scipy.stats import ttest_ind

    interval = ttest_ind(ours, peers, equal_var=False).confidence_interval(CONFIDENCE)
    return difference, interval.low, interval.high
