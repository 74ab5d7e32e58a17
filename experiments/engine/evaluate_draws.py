"""How well a trained classifier predicts with 1, 2, 4, ... predictive draws, in the time of the most."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.draws import keyed_generator
from experiments.data import open_split
from experiments.engine.distributed import Group
from experiments.engine.evaluate import ImageBatches, trained_network
from experiments.engine.network import Network
from experiments.engine.spec import DrawSweepSpec
from experiments.engine.watch import Stopped, Watch
from experiments.metrics.classification import classification_metrics

METRICS = ("top1_acc", "nll", "ece", "brier")


@torch.no_grad()
def predict_by_draws(
    spec: DrawSweepSpec, network: Network, data: ImageBatches, watch: Watch
) -> tuple[dict[int, Tensor], Tensor]:
    """Predictive probabilities (N, C) for each number of draws, and labels (N,), all on the CPU.

    The average over k draws is over the first k of each mini-batch, so 512 draws cost 512 passes and not
    1 + 2 + 4 + ... + 512. Every mini-batch has a noise stream of its own: what k draws predict is then the
    same in a longer sweep. An `EvalSpec` has one stream for all mini-batches, where the noise of the second
    depends on the draws of the first; the two agree in distribution, not in bits.
    """
    network.model.eval()
    look, counts = spec.look, set(spec.counts)
    device = next(network.model.parameters()).device
    found: dict[int, list[Tensor]] = {count: [] for count in spec.counts}
    labels, seen = [], 0
    for number, (images, targets) in enumerate(data.batches(look.batch_size)):
        noise = keyed_generator(device, look.seed, "mini-batch", number)
        total = torch.zeros((), device=device)
        for k in range(1, look.draws + 1):
            with network.method.draw(k, noise):
                total = total + network.evaluated(images).softmax(dim=1)
            if watch.stop():
                raise Stopped
            if k in counts:
                found[k].append((total / k).cpu())
                watch.progress({"fraction": (seen + len(targets) * k / look.draws) / len(data)})
        labels.append(targets.cpu())
        seen += len(targets)
    return {count: torch.cat(parts) for count, parts in found.items()}, torch.cat(labels)


def evaluate_draws(spec: DrawSweepSpec, trained: Path, group: Group, watch: Watch) -> dict[str, Any]:
    """`trained` has the network's last checkpoint; returns what the record says.

    `sweep` has the metrics for each number of draws, `metrics` those of the most.
    """
    begin = time.monotonic()
    train = spec.look.train
    network = trained_network(train, trained, group, watch)
    data = open_split(train.dataset, train.evaluated_split, device=group.device, holdout=train.holdout)
    probabilities, labels = predict_by_draws(spec, network, data, watch)
    sweep = []
    for count, probs in probabilities.items():
        metrics = classification_metrics(probs, labels)
        sweep.append({"draws": count, **{name: metrics[name] for name in METRICS}})
    return {
        "metrics": {name: sweep[-1][name] for name in METRICS},
        "sweep": sweep,
        "images": len(labels),
        "seconds": time.monotonic() - begin,
    }
