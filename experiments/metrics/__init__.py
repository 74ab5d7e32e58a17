"""What is measured on a test set and how it is shown. Imports no torch; formulae are in `classification`."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A column of a table: its key in records, its title, its unit, and which direction is good."""

    name: str
    title: str
    unit: str
    higher_is_better: bool
    digits: int  # decimals printed, as in the paper's tables


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="top1_acc", title="Top-1 acc.", unit="percent", higher_is_better=True, digits=2),
        Metric(name="top5_acc", title="Top-5 acc.", unit="percent", higher_is_better=True, digits=2),
        Metric(name="nll", title="NLL", unit="nats", higher_is_better=False, digits=3),
        Metric(name="ece", title="ECE", unit="fraction", higher_is_better=False, digits=3),
        Metric(name="brier", title="Brier", unit="score", higher_is_better=False, digits=3),
        Metric(name="auroc", title="AUROC", unit="fraction", higher_is_better=True, digits=3),
    )
}

__all__ = ["METRICS", "Metric"]
