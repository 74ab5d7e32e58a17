"""The one evaluation loop: metrics of a trained classifier, at its point estimate or averaged over predictive
draws.
"""

import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.data import open_split
from experiments.data.batches import DeviceImages
from experiments.data.imagenet.stream import StreamedImages
from experiments.engine import checkpoint, predictions
from experiments.engine.distributed import Group
from experiments.engine.network import Network, build
from experiments.engine.spec import EvalSpec, TrainSpec
from experiments.engine.watch import Stopped, Watch
from experiments.metrics.classification import classification_metrics, reliability

POINT_BATCH = 512  # at least; so many more that each process has as many images as the others
ImageBatches = DeviceImages | StreamedImages


@torch.no_grad()
def point_error(network: Network, data: ImageBatches, group: Group) -> dict[str, float]:
    """Error (percent) and NLL (nats) of the point estimate, for the curves; each process takes its share."""
    network.model.eval()
    batch_size = -(-POINT_BATCH // group.world) * group.world
    totals = torch.zeros(3, dtype=torch.float64, device=group.device)
    with network.method.draw(0, torch.Generator(group.device)):
        for images, labels in data.batches(batch_size, rank=group.rank, world=group.world):
            logits = network.evaluated(images)
            wrong = (logits.argmax(dim=1) != labels).sum()
            nll = F.cross_entropy(logits.double(), labels, reduction="sum")
            totals += torch.stack((wrong.double(), nll, torch.full_like(nll, len(labels))))
    wrong, nll, count = group.total(totals).tolist()
    return {"error": 100 * wrong / count, "nll": nll / count}


@torch.no_grad()
def predict(spec: EvalSpec, network: Network, data: ImageBatches, watch: Watch) -> tuple[Tensor, Tensor]:
    """Predictive probabilities (N, C), the mean softmax over the draws, and labels (N,), both on the CPU."""
    network.model.eval()
    device = next(network.model.parameters()).device
    noise = torch.Generator(device).manual_seed(spec.seed)
    draws = range(1, spec.draws + 1) if spec.draws else range(1)
    seen, probabilities, labels = 0, [], []
    for images, targets in data.batches(spec.batch_size):
        mean = torch.zeros((), device=device)
        for k in draws:
            with network.method.draw(k, noise):
                mean = mean + network.evaluated(images).softmax(dim=1)
            if watch.stop():
                raise Stopped
        probabilities.append((mean / len(draws)).cpu())
        labels.append(targets.cpu())
        seen += len(targets)
        watch.progress({"fraction": seen / len(data)})
    return torch.cat(probabilities), torch.cat(labels)


def trained_network(spec: TrainSpec, folder: Path, group: Group, watch: Watch) -> Network:
    """The network of the last checkpoint in `folder`; RunError if that is not a whole training."""
    saved = checkpoint.of_whole_training(folder, spec.id, rounds=spec.epochs, count="epoch", warn=watch.warn)
    network = build(spec, group, train_size=spec.train_size)
    network.load_state_dict(saved["network"])
    return network


def evaluate(
    spec: EvalSpec, trained: Path, group: Group, watch: Watch, *, keep: Path | None = None
) -> dict[str, Any]:
    """Evaluate the network whose last checkpoint lies in `trained`; returns what the record says.

    The predictions are kept in the folder `keep`.
    """
    begin = time.monotonic()
    train = spec.train
    network = trained_network(train, trained, group, watch)
    data = open_split(train.dataset, train.evaluated_split, device=group.device, holdout=train.holdout)
    probabilities, labels = predict(spec, network, data, watch)
    if keep is not None:
        predictions.save(keep, probabilities, labels)
    return {**judge(probabilities, labels), "seconds": time.monotonic() - begin}


def evaluate_mixture(members: list[Path]) -> dict[str, Any]:
    """The mean of the predictive probabilities kept in these folders; returns what the record says."""
    begin = time.monotonic()
    found = [predictions.load(folder) for folder in members]
    probabilities = torch.stack([probs for probs, _ in found]).mean(dim=0)
    return {**judge(probabilities, found[0][1]), "seconds": time.monotonic() - begin}


def judge(probabilities: Tensor, labels: Tensor) -> dict[str, Any]:
    """Metrics and reliability diagram of predictive probabilities (N, C) for labels (N,)."""
    metrics = classification_metrics(probabilities, labels)
    return {
        # JSON has no NaN: a metric that is not defined (AUROC without a single error) is null.
        "metrics": {name: None if math.isnan(value) else value for name, value in metrics.items()},
        "reliability": reliability(probabilities, labels),
        "images": len(labels),
    }
