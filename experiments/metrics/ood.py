"""How well a score tells test images from images of elsewhere, and how unsure predictions are.

`inside` and `outside` hold the scores of in-domain and out-of-distribution images, higher meaning more likely
in-domain; the paper's score is `confidence`. In-domain is the positive class: a threshold t accepts scores of
at least t, TPR(t) is the share of `inside` it accepts and FPR(t) that of `outside`. Thresholds are the scores
themselves, so images of equal score are accepted together. Needs numpy and, when called, scikit-learn.
"""

import numpy as np
from numpy.typing import ArrayLike

from experiments.metrics import OOD_METRICS

__all__ = [
    "OOD_METRICS",
    "confidence",
    "detection_error",
    "fpr_as_released",
    "fpr_at_tpr",
    "ood_metrics",
    "predictive_entropy",
]

TPR = 0.95
RELEASED_TPR = 0.9505  # up to where the released code averages


def ood_metrics(inside: ArrayLike, outside: ArrayLike) -> dict[str, float]:
    """All of `OOD_METRICS`, by name, in percent, from the scores (N,) and (M,) of both sides."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    positive, scores = _labelled(inside, outside)
    fractions = {
        "fpr_at_95tpr": fpr_at_tpr(inside, outside),
        "fpr_released": fpr_as_released(inside, outside),
        "detection_error": detection_error(inside, outside),
        "auroc": roc_auc_score(positive, scores),
        "aupr_in": average_precision_score(positive, scores),
        "aupr_out": average_precision_score(~positive, -scores),
    }
    return {name: 100 * float(value) for name, value in fractions.items()}


def fpr_at_tpr(inside: ArrayLike, outside: ArrayLike, tpr: float = TPR) -> float:
    """FPR at the highest threshold that accepts at least the share `tpr` of the in-domain images."""
    fpr, reached = _roc(inside, outside)
    return float(fpr[np.searchsorted(reached, tpr)])


def fpr_as_released(inside: ArrayLike, outside: ArrayLike) -> float:
    """What the code released with the paper calls FPR95, and Table 3 probably shows: it is something else.

    A comparison the wrong way round makes it the mean of FPR over all corners of the ROC curve with a TPR of
    at most 0.9505, each counted once. It is much smaller, and depends on where corners happen to lie and on
    the numbers of images of both sides. Corners are those of scikit-learn's `roc_curve`, which leaves out
    points on a straight line.
    """
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(*_labelled(inside, outside))
    return float(fpr[tpr <= RELEASED_TPR].mean())


def detection_error(inside: ArrayLike, outside: ArrayLike) -> float:
    """Smallest share of wrong decisions over all thresholds, both sides being equally likely: 0 to 1/2.

    The least (FPR + 1 - TPR) / 2, as in the released code. The paper's text says: at a TPR of 0.95.
    """
    fpr, tpr = _roc(inside, outside)
    return float(((fpr + 1 - tpr) / 2).min())


def confidence(probs: ArrayLike) -> np.ndarray:
    """The largest predictive probability of each row of (N, C): the score of the paper's Table 3."""
    return np.asarray(probs, dtype=np.float64).max(axis=1)


def predictive_entropy(probs: ArrayLike) -> np.ndarray:
    """-sum_c p_c log p_c of each row of (N, C), in nats: 0 when sure, log C when all classes are alike."""
    probs = np.asarray(probs, dtype=np.float64)
    logs = np.log(np.where(probs > 0, probs, 1))
    return np.maximum(0, 0 - (probs * logs).sum(axis=1))  # neither -0 nor less by rounding


def _roc(inside: ArrayLike, outside: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """FPR and TPR, both growing, from the threshold that accepts nothing to the one that accepts all."""
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(*_labelled(inside, outside), drop_intermediate=False)
    return fpr, tpr


def _labelled(inside: ArrayLike, outside: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Whether in-domain, and score, of all images."""
    inside, outside = np.asarray(inside, dtype=np.float64), np.asarray(outside, dtype=np.float64)
    for name, scores in (("inside", inside), ("outside", outside)):
        if scores.ndim != 1 or not len(scores):
            raise ValueError(f"{name} has the shape {scores.shape}; it must be (N,) with N > 0 scores")
        if np.isnan(scores).any():
            raise ValueError(f"{name} has NaN among its scores")
    positive = np.arange(len(inside) + len(outside)) < len(inside)
    return positive, np.concatenate([inside, outside])
