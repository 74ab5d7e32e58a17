"""How long a run will take, from what runs like it have taken; every estimate says what it rests on."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from experiments.engine.record import Store
from experiments.engine.spec import AnySpec, EvalSpec, MixtureSpec, OodSpec, TrainSpec


@dataclass(frozen=True)
class Estimate:
    """Seconds on one device, and in words where they come from."""

    seconds: float
    basis: str


class Throughput:
    """Median seconds of a training step, and of an image in one predictive pass, on one kind of device.

    A training is compared with those of the same network, images, batch size, precision and method, or, for
    want of these, of another method; an evaluation with those of the same network and images.
    """

    def __init__(self, stores: Iterable[Store], device: str) -> None:
        self._device = device  # "cpu" or "cuda"
        self._steps: dict[Hashable, list[float]] = defaultdict(list)
        self._passes: dict[Hashable, list[float]] = defaultdict(list)
        self._names: dict[Hashable, str] = {}  # of the device on which it was measured
        for store in stores:
            for record in store.all():
                if not record["failure"]:
                    self._learn(record["spec"], record["result"], record["machine"])
            for path in sorted((store.root / "throughput").glob("*/measured.json")):
                measured = json.loads(path.read_text())
                self._learn(measured["spec"], measured, measured["machine"])

    def _learn(self, spec: dict[str, Any], result: dict[str, Any], machine: dict[str, Any]) -> None:
        if machine["device"].startswith("CPU") != (self._device == "cpu"):
            return
        if spec["kind"] == "train":
            seconds = result["seconds"] / result["steps"] * machine["processes"]
            for key in (_step_key(spec), _step_key(spec)[:-1]):
                self._steps[key].append(seconds)
                self._names[key] = f"{spec['method']['name']} on {machine['device']}"
        elif spec["kind"] == "evaluate":
            key = _pass_key(spec["train"])
            self._passes[key].append(result["seconds"] / result["images"] / max(1, spec["draws"]))
            self._names[key] = machine["device"]

    def seconds(self, spec: AnySpec) -> float | None:
        found = self.estimate(spec)
        return found and found.seconds

    def estimate(self, spec: AnySpec) -> Estimate | None:
        """None if nothing comparable has been measured."""
        if isinstance(spec, MixtureSpec):
            return Estimate(1.0, "a second for a mean of predictions")
        if isinstance(spec, TrainSpec):
            return self._training(spec)
        look = spec.look if isinstance(spec, OodSpec) else spec
        return self._evaluation(look, spec.images)

    def _training(self, spec: TrainSpec) -> Estimate | None:
        exact = _step_key(spec.model_dump(mode="json"))
        for key in (exact, exact[:-1]):
            if key in self._steps:
                step = median(self._steps[key])
                words = (
                    f"{1000 * step:.3g} ms a step of {spec.model} "
                    f"({self._names[key]}, {len(self._steps[key])} measured)"
                )
                return Estimate(step * spec.epochs * spec.steps_per_epoch, words)
        return None

    def _evaluation(self, spec: EvalSpec, images: int) -> Estimate | None:
        key = _pass_key(spec.train.model_dump(mode="json"))
        if key not in self._passes:
            return None
        one = median(self._passes[key])
        words = f"{1000 * one:.3g} ms an image and draw of {spec.train.model} ({self._names[key]})"
        return Estimate(one * images * max(1, spec.draws), words)


def _step_key(train: dict[str, Any]) -> tuple[Hashable, ...]:
    same = tuple(train[name] for name in ("dataset", "model", "width", "batch_size", "precision"))
    return (*same, (train["method"]["name"], train["method"].get("mc_samples")))


def _pass_key(train: dict[str, Any]) -> tuple[Hashable, ...]:
    return tuple(train[name] for name in ("dataset", "model", "width", "precision"))


def checkpoint_bytes(spec: TrainSpec, parameters: int) -> int:
    """What the two checkpoints that a run keeps take on disk: weights and the method's numbers, in fp32."""
    return 2 * 4 * parameters * spec.method.numbers_per_weight


def parameters_of(spec: TrainSpec) -> int:
    """How many weights the network has; built without memory for them."""
    import torch

    from experiments.data import DATASETS
    from experiments.models import MODELS

    data = DATASETS[spec.dataset]
    with torch.device("meta"):
        model = MODELS[spec.model].build(
            data.num_classes, in_channels=data.channels, width=spec.width, side=data.side
        )
    return sum(p.numel() for p in model.parameters())


def fraction_done(folder: Path) -> float:
    """How much of a run its last checkpoint holds, as far as its latest news tell."""
    if not any(folder.glob("checkpoint-*.pt")):
        return 0.0
    try:
        return json.loads((folder / "progress.json").read_text())["fraction"]
    except (OSError, ValueError, KeyError):  # no news, or half written
        return 0.0
