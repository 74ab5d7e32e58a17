"""What is measured on a test set and how it is shown. Imports no torch; formulae are in `classification` and
`ood`.
"""

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A column of a table: its key in records, its title, its unit, which direction is good, its range."""

    name: str
    title: str
    unit: str
    higher_is_better: bool
    digits: int  # decimals printed, as in the paper's tables
    least: float = 0.0
    most: float = inf

    @property
    def allowed(self) -> str:
        """The range in words."""
        return f"between {self.least:g} and {self.most:g}" if self.most < inf else f"at least {self.least:g}"


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="top1_acc", title="Top-1 acc.", unit="percent", higher_is_better=True, digits=2, most=100
        ),
        Metric(
            name="top5_acc", title="Top-5 acc.", unit="percent", higher_is_better=True, digits=2, most=100
        ),
        Metric(name="nll", title="NLL", unit="nats", higher_is_better=False, digits=3),
        Metric(name="ece", title="ECE", unit="fraction", higher_is_better=False, digits=3, most=1),
        Metric(name="brier", title="Brier", unit="score", higher_is_better=False, digits=3, most=2),
        Metric(name="auroc", title="AUROC", unit="fraction", higher_is_better=True, digits=3, most=1),
    )
}

POOLED_ECE = Metric(
    name="ece_pooled",
    title="ECE of all corruptions together",
    unit="fraction",
    higher_is_better=False,
    digits=3,
    most=1,
)

OOD_METRICS: dict[str, Metric] = {
    name: Metric(name=name, title=title, unit="percent", higher_is_better=better, digits=2, most=most)
    for name, title, better, most in (
        ("fpr_at_95tpr", "FPR95", False, 100),
        ("fpr_released", "FPR95 as released", False, 100),
        ("detection_error", "Detection error", False, 50),
        ("auroc", "AUROC", True, 100),
        ("aupr_in", "AUPR in", True, 100),
        ("aupr_out", "AUPR out", True, 100),
    )
}

__all__ = ["METRICS", "OOD_METRICS", "POOLED_ECE", "Metric"]
