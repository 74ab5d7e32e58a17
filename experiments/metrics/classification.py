"""Metrics of a classifier, from its predictive probabilities.

`probs` holds one row of class probabilities per example, `labels` the true class of each. For a Bayesian
method a row is the average of the softmax outputs over the posterior draws; averaging comes first, every
metric after it. `classification_metrics` computes in float64 on the CPU, so the device of the forward passes
cannot change the sums.
"""

import math

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

# A probability that underflowed to zero in float32 counts as the smallest normal number: at most 87.3 nats.
SMALLEST_PROBABILITY = torch.finfo(torch.float32).tiny

ECE_BINS = 20  # The paper's choice; other numbers of bins give other errors.


def classification_metrics(probs: Tensor, labels: Tensor) -> dict[str, float]:
    """All of `METRICS`, by name, in the units stated there."""
    probs, labels = _in_double(probs, labels)
    if not torch.allclose(probs.sum(dim=-1), torch.ones(len(probs), dtype=probs.dtype), atol=1e-3):
        raise ValueError("rows of probs do not sum to 1: logits, log-probabilities or NaN were passed")
    return {
        "top1_acc": 100 * top_k_accuracy(probs, labels, k=1),
        "top5_acc": 100 * top_k_accuracy(probs, labels, k=5),
        "nll": negative_log_likelihood(probs, labels),
        "ece": expected_calibration_error(probs, labels),
        "brier": brier_score(probs, labels),
        "auroc": misclassification_auroc(probs, labels),
    }


def top_k_accuracy(probs: Tensor, labels: Tensor, *, k: int) -> float:
    """Share of examples whose true class is among the k most probable; 1 when there are at most k classes.

    Of equally probable classes the one with the lower index comes first, so that k = 1 agrees with `argmax`.
    """
    true_prob = _true_class_probability(probs, labels)[:, None]
    comes_before = torch.arange(probs.shape[1], device=probs.device) < labels[:, None]
    rank = ((probs > true_prob) | ((probs == true_prob) & comes_before)).sum(dim=-1)
    return (rank < k).double().mean().item()


def negative_log_likelihood(probs: Tensor, labels: Tensor) -> float:
    """Mean of -log p(true class), in nats; the log of the averaged probability, not an average of logs."""
    return -_true_class_probability(probs, labels).clamp(min=SMALLEST_PROBABILITY).log().mean().item()


def brier_score(probs: Tensor, labels: Tensor) -> float:
    """Mean squared distance between the probabilities and the one-hot label, summed over classes: 0 to 2."""
    # sum_c (p_c - 1[c = y])^2 = sum_c p_c^2 - 2 p_y + 1 needs no one-hot matrix.
    return (probs.square().sum(dim=-1) - 2 * _true_class_probability(probs, labels) + 1).mean().item()


def expected_calibration_error(probs: Tensor, labels: Tensor, bins: int = ECE_BINS) -> float:
    """Gap between accuracy and confidence, averaged over equal-width bins of confidence by count.

    Guo et al. (2017), Eq. 3. Confidence is the largest probability; bin b of B holds b/B <= confidence <
    (b+1)/B, the last one also confidence 1, with the edges in double precision.
    """
    _, confidence, correct = _sums_per_bin(probs, labels, bins)
    return ((correct - confidence).abs().sum() / len(labels)).item()


def reliability(probs: Tensor, labels: Tensor, bins: int = ECE_BINS) -> dict[str, list]:
    """The reliability diagram: per bin the mean confidence, the accuracy and the count of examples.

    Bins are those of the calibration error. An empty bin has count 0 and neither confidence nor accuracy
    (None).
    """
    probs, labels = _in_double(probs, labels)
    count, confidence, correct = (sums.tolist() for sums in _sums_per_bin(probs, labels, bins))
    return {
        "confidence": [total / n if n else None for total, n in zip(confidence, count, strict=True)],
        "accuracy": [total / n if n else None for total, n in zip(correct, count, strict=True)],
        "count": [int(n) for n in count],
    }


def misclassification_auroc(probs: Tensor, labels: Tensor) -> float:
    """How well confidence tells right from wrong predictions: area under the ROC curve, right ones positive.

    The score is the largest probability. NaN when all predictions are right or all are wrong.
    """
    confidence, predicted = probs.max(dim=-1)
    correct = predicted == labels
    if correct.all() or not correct.any():
        return math.nan
    return float(roc_auc_score(correct.cpu().numpy(), confidence.cpu().numpy()))


def _in_double(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """On the CPU; ValueError unless they are (N, C), the classes last, and (N,)."""
    if probs.dim() != 2 or labels.shape != probs.shape[:1]:
        raise ValueError(
            f"probs and labels must be (N, C) and (N,), got {tuple(probs.shape)} and {tuple(labels.shape)}"
        )
    return probs.detach().to("cpu", torch.float64), labels.cpu()


def _true_class_probability(probs: Tensor, labels: Tensor) -> Tensor:
    return probs.gather(1, labels[:, None]).squeeze(1)


def _sums_per_bin(probs: Tensor, labels: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Per bin of confidence: number of examples, sum of confidences, number of right predictions."""
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    confidence, predicted = probs.max(dim=-1)
    # Compared with the edges themselves: a product of confidence and bins is rounded, past an edge at times.
    edges = torch.arange(1, bins, dtype=torch.float64, device=probs.device) / bins
    bin_of = torch.bucketize(confidence.double(), edges, right=True)
    per_example = torch.stack([torch.ones_like(confidence), confidence, (predicted == labels).to(confidence)])
    count, total_confidence, correct = per_example.new_zeros(3, bins).index_add(1, bin_of, per_example)
    return count, total_confidence, correct
