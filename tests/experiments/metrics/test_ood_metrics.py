"""Metrics of telling in-domain from other images, from scores of both."""

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import norm

from experiments.metrics.ood import (
    OOD_METRICS,
    confidence,
    detection_error,
    fpr_as_released,
    fpr_at_tpr,
    ood_metrics,
    predictive_entropy,
)


def gaussian_scores(auroc: float, inside: int, outside: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two normal distributions of variance 1, as far apart as the AUROC asks for."""
    rng = np.random.default_rng(seed)
    return rng.normal(math.sqrt(2) * norm.ppf(auroc), 1, inside), rng.normal(0, 1, outside)


def tied_scores(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Few different values, so that many images share one."""
    rng = np.random.default_rng(seed)
    return rng.integers(3, 13, 200) / 10, rng.integers(0, 10, 300) / 10


SCORES = {"distinct": gaussian_scores(0.8, 200, 300), "tied": tied_scores()}
both = pytest.mark.parametrize("kind", SCORES)


def rates(inside: np.ndarray, outside: np.ndarray) -> list[tuple[float, float]]:
    """FPR and TPR at every threshold, by counting."""
    thresholds = [np.inf, *sorted({*inside, *outside}, reverse=True)]
    return [(float((outside >= t).mean()), float((inside >= t).mean())) for t in thresholds]


def test_every_metric_is_measured_and_described():
    assert set(ood_metrics(*SCORES["tied"])) == set(OOD_METRICS)
    assert all(metric.name == name and metric.unit == "percent" for name, metric in OOD_METRICS.items())


@both
def test_rates_are_those_found_by_counting(kind):
    inside, outside = SCORES[kind]
    points = rates(inside, outside)
    assert fpr_at_tpr(inside, outside) == min(fpr for fpr, tpr in points if tpr >= 0.95)
    assert fpr_at_tpr(inside, outside, 0.5) == min(fpr for fpr, tpr in points if tpr >= 0.5)
    least = min((fpr + 1 - tpr) / 2 for fpr, tpr in points)
    assert detection_error(inside, outside) == pytest.approx(least, abs=1e-12)  # rounding of one sum


@both
def test_areas_are_those_of_the_definitions(kind):
    inside, outside = SCORES[kind]
    ours = ood_metrics(inside, outside)
    wins = (inside[:, None] > outside).mean() + (inside[:, None] == outside).mean() / 2
    assert ours["auroc"] == pytest.approx(100 * wins, abs=1e-9)  # sums of 500 terms of up to 100
    for name, positive, negative in (("aupr_in", inside, outside), ("aupr_out", -outside, -inside)):
        average, reached = 0.0, 0.0
        for fpr, tpr in rates(positive, negative)[1:]:
            accepted = tpr * len(positive), fpr * len(negative)
            average += (tpr - reached) * accepted[0] / sum(accepted)
            reached = tpr
        assert ours[name] == pytest.approx(100 * average, abs=1e-9)


@pytest.mark.parametrize(
    ("auroc", "released", "defined"), [(0.886, 0.154, 0.473), (0.817, 0.222, 0.653)], ids=["0.886", "0.817"]
)
def test_the_released_code_reports_far_less_than_the_definition(auroc, released, defined):
    inside, outside = gaussian_scores(auroc, 10_000, 26_032)  # CIFAR-10 test against SVHN test
    # The threshold that 95 percent of 10,000 normal scores reach has a standard error of 0.021, and the FPR
    # at it of at most 0.0084; the expected numbers are themselves from one simulation: 2.5 such errors.
    assert fpr_at_tpr(inside, outside) == pytest.approx(defined, abs=0.021)
    assert fpr_as_released(inside, outside) == pytest.approx(released, abs=0.01)
    assert fpr_at_tpr(inside, outside) == pytest.approx(
        norm.cdf(norm.ppf(0.95) - math.sqrt(2) * norm.ppf(auroc)), abs=0.021
    )


def test_scores_apart_are_told_apart():
    ours = ood_metrics(np.linspace(0.6, 1, 50), np.linspace(0, 0.5, 70))
    best = {name: 100.0 if metric.higher_is_better else 0.0 for name, metric in OOD_METRICS.items()}
    assert ours == pytest.approx(best)


def test_swapping_the_sides_of_useless_scores_changes_nothing_but_the_base_rates():
    same = np.linspace(0, 1, 101)
    ours = ood_metrics(same, np.repeat(same, 3))
    assert ours["auroc"] == pytest.approx(50)
    assert ours["detection_error"] == pytest.approx(50)
    assert ours["fpr_at_95tpr"] == pytest.approx(
        100 * 96 / 101
    )  # the first threshold with a TPR of 95 percent


def test_sides_without_scores_and_nan_are_refused():
    with pytest.raises(ValueError, match="outside has the shape"):
        ood_metrics([0.5], [])
    with pytest.raises(ValueError, match="inside has the shape"):
        ood_metrics([[0.5, 0.5]], [0.1])
    with pytest.raises(ValueError, match="NaN"):
        ood_metrics([0.5, math.nan], [0.1])


def test_entropy_and_confidence():
    probs = [[0.25] * 4, [1, 0, 0, 0], [0.5, 0.5, 0, 0]]
    assert predictive_entropy(probs) == pytest.approx([math.log(4), 0, math.log(2)])
    assert not np.signbit(predictive_entropy(probs)).any()
    assert confidence(np.float32(probs)).tolist() == [0.25, 1, 0.5]


def test_describing_these_metrics_needs_no_torch():
    code = "import sys, experiments.metrics.ood; assert not {'torch', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
