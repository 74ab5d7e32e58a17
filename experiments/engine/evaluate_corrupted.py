"""How well a trained classifier knows corrupted test images, corruption by corruption."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from experiments import strict_json
from experiments.data.corruptions import corrupted_source, open_corrupted
from experiments.engine import files
from experiments.engine.distributed import Group
from experiments.engine.evaluate import predict, trained_network
from experiments.engine.record import REACHED
from experiments.engine.record_check import OPEN, AtLeast0, Diagram, Metrics
from experiments.engine.spec import CorruptedSpec
from experiments.engine.watch import Stopped, Watch
from experiments.metrics.classification import classification_metrics, reliability

METRICS = ("top1_acc", "nll", "ece", "brier")  # the paper's, App. C.3


class Found(TypedDict):
    """Under one corruption."""

    metrics: Metrics
    reliability: Diagram


@with_config(OPEN)
class Reached(TypedDict):
    """What an attempt leaves for the next one."""

    source: str
    checkpoint: str
    seconds: AtLeast0
    corruptions: dict[str, Found]


_REACHED: TypeAdapter[Reached] = TypeAdapter(Reached)


def evaluate_corrupted(
    spec: CorruptedSpec, trained: Path, folder: Path, group: Group, watch: Watch
) -> dict[str, Any]:
    """`trained` has the network's last checkpoint; in `folder` stands which corruptions are done.

    As many corruptions as fit into a mini-batch are predicted together, with the same draws for each batch.
    """
    begin = time.monotonic()
    train = spec.look.train
    source = corrupted_source(train.dataset, origin=spec.origin)
    network = trained_network(train, trained, group, watch)
    checkpoint = max(trained.glob("checkpoint-*.pt")).name  # the one just read; it names its content
    reached = _reached(folder, {"source": source, "checkpoint": checkpoint})
    found, earlier = reached["corruptions"], reached["seconds"]

    def seconds() -> float:
        """Of all attempts."""
        return earlier + time.monotonic() - begin

    together = max(1, spec.look.batch_size // spec.images_each)
    left = iter([name for name in spec.corruptions if name not in found])
    while names := list(islice(left, together)):
        if watch.stop():  # making images takes a while too
            raise Stopped
        data = open_corrupted(
            train.dataset,
            names,
            spec.severity,
            device=group.device,
            first=spec.images_each,
            origin=spec.origin,
        )
        probabilities, labels = predict(
            spec.look, network, data, _part_of(watch, spec, len(found), len(names), seconds)
        )
        for name, probs, truth in zip(
            names, probabilities.chunk(len(names)), labels.chunk(len(names)), strict=True
        ):
            metrics = classification_metrics(probs, truth)
            found[name] = {
                "metrics": {metric: metrics[metric] for metric in METRICS},
                "reliability": reliability(probs, truth),
            }
        reached["seconds"] = seconds()
        if group.leads:
            files.replace(folder / REACHED, json.dumps(reached).encode())
    return {**_summary(spec, found), "source": source, "seconds": seconds()}


def _summary(spec: CorruptedSpec, found: dict[str, Any]) -> dict[str, Any]:
    """Metrics of each corruption and their means over corruptions, and one reliability diagram of all."""
    each = {name: found[name]["metrics"] for name in spec.corruptions}
    means = {metric: fmean(metrics[metric] for metrics in each.values()) for metric in METRICS}
    bins = pooled([found[name]["reliability"] for name in spec.corruptions])
    return {
        "metrics": {**means, "ece_pooled": calibration_error(bins)},
        "corruptions": each,
        "reliability": bins,
        "images": spec.images_each,
    }


def pooled(diagrams: list[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    """The reliability diagram of all the images of several."""
    count = [sum(counts) for counts in zip(*(bins["count"] for bins in diagrams), strict=True)]
    sums = {
        name: [sum((mean or 0.0) * number for mean, number in parts) for parts in _bin_by_bin(diagrams, name)]
        for name in ("confidence", "accuracy")
    }
    means = {
        name: [total / n if n else None for total, n in zip(totals, count, strict=True)]
        for name, totals in sums.items()
    }
    return {**means, "count": count}


def calibration_error(bins: dict[str, list[Any]]) -> float:
    """The expected calibration error of a reliability diagram."""
    filled = zip(bins["count"], bins["accuracy"], bins["confidence"], strict=True)
    return sum(n * abs(right - sure) for n, right, sure in filled if n) / sum(bins["count"])


def _bin_by_bin(diagrams: list[dict[str, list[Any]]], name: str) -> Iterator[tuple[tuple[Any, int], ...]]:
    """For each bin its mean and its count in every diagram."""
    return zip(*(zip(bins[name], bins["count"], strict=True) for bins in diagrams), strict=True)


def _reached(folder: Path, seen: dict[str, str]) -> dict[str, Any]:
    """The corruptions of an earlier attempt, if it saw the same: images of this source, this network."""
    new = {**seen, "seconds": 0.0, "corruptions": {}}
    try:
        old = _REACHED.validate_python(strict_json.parse((folder / REACHED).read_bytes()))
    except (OSError, ValueError):  # none yet, or damaged
        return new
    return dict(old) if seen.items() <= old.items() else new


def _part_of(watch: Watch, spec: CorruptedSpec, done: int, now: int, seconds: Callable[[], float]) -> Watch:
    """The same watch for `now` of the corruptions, with progress and `seconds` over all."""

    def progress(news: dict[str, Any]) -> None:
        fraction = (done + now * news["fraction"]) / len(spec.corruptions)
        watch.progress({"fraction": fraction, "seconds": seconds()})

    return replace(watch, progress=progress)
