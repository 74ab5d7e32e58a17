"""How a trained classifier tells test images from images that show none of its classes."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from experiments.data import DATASETS
from experiments.data.ood import open_ood
from experiments.engine import predictions
from experiments.engine.distributed import Group
from experiments.engine.evaluate import predict, trained_network
from experiments.engine.spec import OodSpec
from experiments.engine.watch import Watch
from experiments.metrics.ood import confidence, ood_metrics, predictive_entropy

ENTROPY_BINS = 50  # from 0 to that of equal probabilities


def evaluate_ood(spec: OodSpec, trained: Path, inside: Path, group: Group, watch: Watch) -> dict[str, Any]:
    """`trained` has the network's last checkpoint, `inside` its predictions on the test images."""
    begin = time.monotonic()
    network = trained_network(spec.look.train, trained, group, watch)
    images, stand_in = open_ood(spec.outside, device=group.device)
    outside, _ = predict(spec.look, network, images, watch)
    known, _ = predictions.load(inside)
    classes = DATASETS[spec.look.train.dataset].num_classes
    return {
        "metrics": ood_metrics(confidence(known), confidence(outside)),
        "entropy": {"inside": _histogram(known, classes), "outside": _histogram(outside, classes)},
        "images": len(outside),
        "stand_in": stand_in,  # what part of the set it is, if not the whole
        "seconds": time.monotonic() - begin,
    }


def _histogram(probabilities: Tensor, classes: int) -> list[int]:
    """Images by predictive entropy, in equal bins from 0 to log of the number of classes."""
    entropy = predictive_entropy(probabilities.numpy()).clip(max=math.log(classes))
    return np.histogram(entropy, bins=ENTROPY_BINS, range=(0, math.log(classes)))[0].tolist()
