"""What one temperature does to kept predictions."""

import time
from pathlib import Path
from typing import Any

import torch

from experiments.engine import predictions
from experiments.engine.evaluate import judge
from experiments.metrics.temperature import cross_fitted, log_probabilities


def evaluate_temperature(kept: Path, *, seed: int) -> dict[str, Any]:
    """Metrics of the predictions kept in a folder, as they are and tempered; returns what the record says.

    Averaged predictions have no logits: the logarithms of the probabilities take their place.
    """
    begin = time.monotonic()
    probabilities, labels = predictions.load(kept)
    logits = log_probabilities(probabilities.numpy())
    scaled, temperatures = cross_fitted(logits, labels.numpy(), seed=seed)
    before, after = judge(probabilities, labels), judge(torch.from_numpy(scaled), labels)
    return {
        "metrics": after["metrics"],
        "metrics_before": before["metrics"],
        "reliability": after["reliability"],
        "temperatures": list(temperatures),  # of either half, fitted on the other
        "images": before["images"],
        "seconds": time.monotonic() - begin,
    }
