import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from experiments.metrics import METRICS
from experiments.metrics.classification import (
    SMALLEST_PROBABILITY,
    classification_metrics,
    expected_calibration_error,
    misclassification_auroc,
    negative_log_likelihood,
    reliability,
    top_k_accuracy,
)

# Sums of 500 float64 numbers of order 1, added in another order by the other library.
ROUNDING = 1e-12


def predictions(examples: int = 500, classes: int = 10, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random probabilities of a somewhat useful, somewhat overconfident classifier, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (examples,), generator=generator)
    logits = 2 * torch.randn(examples, classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(examples), labels] += 2
    return logits.softmax(dim=-1), labels


def test_every_metric_is_measured_and_described():
    assert set(classification_metrics(*predictions())) == set(METRICS)
    assert all(metric.name == name for name, metric in METRICS.items())


def test_accuracies_agree_with_scikit_learn():
    probs, labels = predictions()
    ours = classification_metrics(probs, labels)
    for name, k in (("top1_acc", 1), ("top5_acc", 5)):
        theirs = sklearn_metrics.top_k_accuracy_score(labels, probs, k=k, labels=range(10))
        assert ours[name] == pytest.approx(100 * theirs, abs=ROUNDING)
        assert 0 < ours[name] < 100


def test_nll_agrees_with_scikit_learn():
    probs, labels = predictions()
    theirs = sklearn_metrics.log_loss(labels, probs, labels=range(10))
    assert classification_metrics(probs, labels)["nll"] == pytest.approx(theirs, abs=ROUNDING)


def test_brier_agrees_with_scikit_learn():
    pytest.importorskip(
        "sklearn", minversion="1.7", reason="older versions have no Brier score of many classes"
    )
    probs, labels = predictions()
    theirs = sklearn_metrics.brier_score_loss(labels, probs, labels=range(10), scale_by_half=False)
    assert classification_metrics(probs, labels)["brier"] == pytest.approx(theirs, abs=ROUNDING)


def test_brier_reaches_two_when_surely_wrong():
    assert classification_metrics(torch.eye(3), torch.tensor([1, 2, 0]))["brier"] == 2


def test_auroc_agrees_with_pairwise_comparison():
    probs, labels = predictions()
    confidence, predicted = probs.max(dim=-1)
    right, wrong = confidence[predicted == labels], confidence[predicted != labels]
    pairs_in_order = (right[:, None] > wrong[None, :]).double().mean().item()
    assert misclassification_auroc(probs, labels) == pytest.approx(pairs_in_order, abs=ROUNDING)


def test_auroc_is_undefined_when_all_predictions_are_right_or_all_are_wrong():
    probs = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    assert math.isnan(misclassification_auroc(probs, torch.tensor([0, 0])))
    assert math.isnan(misclassification_auroc(probs, torch.tensor([1, 1])))


@pytest.fixture(scope="module")
def torchmetrics_classification():
    guard = pytest.importorskip("experiments.torchvision_guard", reason="torchmetrics imports torchvision")
    guard.import_torchvision()
    return pytest.importorskip("torchmetrics.functional.classification", reason="an independent check only")


@pytest.mark.slow  # importing torchmetrics takes longer than all other tests of this file
def test_ece_and_accuracy_agree_with_torchmetrics(torchmetrics_classification):
    theirs = torchmetrics_classification
    for seed in range(3):
        probs, labels = predictions(seed=seed)
        ece = theirs.multiclass_calibration_error(probs, labels, num_classes=10, n_bins=20, norm="l1")
        accuracy = theirs.multiclass_accuracy(probs, labels, num_classes=10, average="micro")
        # torchmetrics keeps its bin sums in float32, whose rounding is 6e-8 of a number near 1.
        assert expected_calibration_error(probs, labels) == pytest.approx(ece.item(), abs=1e-6)
        assert top_k_accuracy(probs, labels, k=1) == pytest.approx(accuracy.item(), abs=1e-6)


def test_ece_of_labels_drawn_from_the_probabilities_goes_to_zero():
    probs, _ = predictions(examples=100_000)
    labels = torch.multinomial(probs, 1, generator=torch.Generator().manual_seed(1)).squeeze(1)
    # 20 bins of about 5000 examples: accuracies have standard errors up to 0.007, so mean sizes up to 0.006.
    assert expected_calibration_error(probs, labels) < 0.006
    assert expected_calibration_error(probs, (labels + 1) % 10) > 0.3


def test_ece_agrees_with_a_loop_over_the_intervals_of_the_definition():
    probs, labels = predictions()
    confidence, predicted = probs.max(dim=-1)
    gaps = 0.0
    for b in range(20):
        inside = (confidence >= b / 20) & (confidence < (b + 1) / 20)
        if inside.any():
            accuracy = (predicted[inside] == labels[inside]).double().mean()
            gaps += inside.double().mean() * (accuracy - confidence[inside].mean()).abs()
    assert expected_calibration_error(probs, labels) == pytest.approx(float(gaps), abs=ROUNDING)


def test_ece_by_hand():
    # Confidence 0.95 twice, one right: gap 0.45. Confidence 0.625 once, right: gap 0.375. Weighted by counts.
    probs = torch.tensor([[0.95, 0.05], [0.95, 0.05], [0.375, 0.625]], dtype=torch.float64)
    assert expected_calibration_error(probs, torch.tensor([0, 1, 1])) == pytest.approx((0.9 + 0.375) / 3)


def test_confidence_on_a_bin_edge_opens_the_next_bin_and_one_belongs_to_the_last():
    diagram = reliability(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([0, 0]))
    assert [b for b, count in enumerate(diagram["count"]) if count] == [10, 19]


def binary(confidence: torch.Tensor) -> torch.Tensor:
    """Probabilities of two classes, the first the more probable one."""
    return torch.stack([confidence, 1 - confidence], dim=1)


@pytest.mark.parametrize("bins", [1, 2, 3, 7, 10, 15, 20, 49, 103, 200])
def test_values_at_and_next_to_each_edge_are_binned_as_digitize_does(bins):
    edges = np.arange(bins + 1) / bins
    values = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, 1)])
    values = values[values >= 0.5]  # confidences of two classes
    expected = np.minimum(np.digitize(values, edges), bins) - 1
    diagram = reliability(binary(torch.from_numpy(values)), torch.zeros(len(values), dtype=torch.long), bins)
    assert diagram["count"] == np.bincount(expected, minlength=bins).tolist()


def test_every_number_of_bins_bins_as_digitize_does():
    """Also single-precision confidences, next to an edge on the side where they lie."""
    generator = np.random.default_rng(0)
    for bins in range(1, 201):
        edges = np.arange(bins + 1) / bins
        values = np.concatenate([edges, np.nextafter(edges, 0), generator.uniform(0.5, 1, 20)])
        values = values[values >= 0.5]
        labels = torch.from_numpy(generator.integers(0, 2, len(values)))
        for kind in (np.float64, np.float32):
            of_kind = values.astype(kind)
            place = np.minimum(np.digitize(of_kind.astype(np.float64), edges), bins) - 1
            surplus = (labels.numpy() == 0) - of_kind.astype(np.float64)
            error = np.abs(np.bincount(place, weights=surplus, minlength=bins)).sum() / len(values)
            found = expected_calibration_error(binary(torch.from_numpy(of_kind)), labels, bins)
            # The sums of some 300 numbers are of the precision of the probabilities.
            assert found == pytest.approx(error, abs=1e-12 if kind is np.float64 else 1e-6), (bins, kind)


def test_single_precision_is_binned_as_ever_with_the_papers_bins():
    """Where a product of 20 and a number of 24 bits is exact, as in all records, edges change nothing."""
    steps = torch.linspace(0.5, 1, 100_001)
    edges = (torch.arange(10, 21) / 20).float()
    near = torch.cat([torch.nextafter(edges, torch.tensor(value)) for value in (0.0, 1.0)])
    confidence = torch.cat([steps, edges, near]).clamp(0.5, 1)
    diagram = reliability(binary(confidence), torch.zeros(len(confidence), dtype=torch.long))
    product = (confidence.double() * 20).long().clamp(max=19)
    assert diagram["count"] == product.bincount(minlength=20).tolist()


@pytest.mark.parametrize("bins", [0, -3])
def test_no_bins_are_refused(bins):
    with pytest.raises(ValueError, match=f"bins must be at least 1, got {bins}"):
        expected_calibration_error(*predictions(), bins=bins)


def test_reliability_yields_the_calibration_error_and_marks_empty_bins():
    probs, labels = predictions()
    diagram = reliability(probs, labels)
    assert sum(diagram["count"]) == len(labels)
    assert all(len(column) == 20 for column in diagram.values())
    assert diagram["confidence"][0] is diagram["accuracy"][0] is None  # never below 1 / classes
    gaps = [
        count * abs(accuracy - confidence)
        for confidence, accuracy, count in zip(*diagram.values(), strict=True)
        if count
    ]
    assert sum(gaps) / len(labels) == pytest.approx(expected_calibration_error(probs, labels), abs=ROUNDING)


def test_probability_that_underflowed_to_zero_costs_a_finite_stated_amount():
    probs = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert negative_log_likelihood(probs, torch.tensor([1])) == pytest.approx(-math.log(SMALLEST_PROBABILITY))
    assert negative_log_likelihood(probs, torch.tensor([0])) == 0


def test_with_fewer_than_five_classes_top5_is_always_right():
    probs, labels = predictions(classes=4)
    assert classification_metrics(probs, labels)["top5_acc"] == 100


def test_equal_probabilities_are_ranked_by_class_index():
    uniform = torch.full((10, 10), 0.1)
    labels = torch.arange(10)
    assert top_k_accuracy(uniform, labels, k=1) == (uniform.argmax(dim=-1) == labels).double().mean()
    assert top_k_accuracy(uniform, labels, k=5) == 0.5


def test_float32_and_float64_probabilities_give_the_same_table_entries():
    probs, labels = predictions()
    double, single = classification_metrics(probs, labels), classification_metrics(probs.float(), labels)
    for name in METRICS:
        # Float32 probabilities are off by 6e-8; percent are a hundred times larger, and no rank changes here.
        assert single[name] == pytest.approx(double[name], abs=1e-5)


def test_logits_are_refused():
    probs, labels = predictions()
    with pytest.raises(ValueError, match="sum to 1"):
        classification_metrics(probs.log(), labels)


@pytest.mark.parametrize("metrics", [classification_metrics, reliability])
@pytest.mark.parametrize(
    ("shape", "labels"),
    [((4, 2, 2), (4,)), ((4, 2, 2), (4, 2)), ((4, 2), (4, 1)), ((4, 2), (3,)), ((4,), (4,))],
)
def test_other_shapes_than_rows_of_classes_are_refused(metrics, shape, labels):
    words = re.escape(f"probs and labels must be (N, C) and (N,), got {shape} and {labels}")
    with pytest.raises(ValueError, match=words):
        metrics(torch.full(shape, 0.5), torch.zeros(labels, dtype=torch.long))


def test_nan_is_refused():
    probs, labels = predictions()
    probs[3] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        classification_metrics(probs, labels)


def test_describing_metrics_needs_no_torch():
    code = "import sys, experiments.metrics; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
