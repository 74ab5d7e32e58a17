"""Seconds and bytes of a training step, method beside method."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, count, islice
from typing import Any, Protocol

from torch import Tensor

from baselines.method import Loss, Method
from experiments.data import open_split
from experiments.engine.allocated import Step, peak_bytes, tensor_bytes
from experiments.engine.distributed import Group
from experiments.engine.network import build
from experiments.engine.schedule import lr_factor
from experiments.engine.spec import CostSpec, LanguageSpec, Training, TrainSpec
from experiments.engine.watch import Stopped, Watch

Batch = tuple[Tensor, ...]


class Contender(Protocol):
    """A network with its method, at the beginning of a training."""

    method: Method
    parameters: int

    def step(self, *batch: Tensor) -> Tensor:
        """A step as in training; the loss (nats)."""
        ...


class ImageContender:
    """A network with its method, in the first epoch of a training."""

    def __init__(self, spec: TrainSpec, group: Group, train_size: int) -> None:
        self.spec = spec
        self.network = build(spec, group, train_size=train_size)
        self.method = self.network.method
        self.parameters = sum(p.numel() for p in self.network.model.parameters())
        factor = lr_factor(
            0, warmup_epochs=spec.warmup_epochs, cosine_epochs=spec.cosine_epochs or spec.epochs
        )
        for params in self.network.method.optimizer.param_groups:
            params["lr"] = spec.method.lr * factor
        self.network.method.begin_epoch(0, spec.epochs, spec.steps_per_epoch)
        self.network.model.train()

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """A step as in training; the loss (nats)."""
        return self.network.method.step(
            Loss(
                self.network.logits,
                images,
                labels,
                precision=self.network.precision,
                micro_batches=self.spec.shares,
            )
        )


Make = Callable[[Any], Contender]  # from the specification of its training


def measure_costs(spec: CostSpec, group: Group, watch: Watch) -> dict[str, Any]:
    """Per method: seconds of a step in each round, bytes at its peak, bytes that the method keeps.

    Seconds are those of the processor on a CPU, which what else runs there hardly changes, and on a GPU those
    of the clock until the work queued is done. Batches lie ready, the same ones for all methods.
    """
    start = time.monotonic()
    contender_of, batches = _open(spec.compared[0], group)
    turns = len(spec.compared) * (spec.rounds + 2)
    done = 0

    def finish_turn() -> None:
        nonlocal done
        done += 1
        watch.progress({"fraction": done / turns})
        if watch.stop():
            raise Stopped

    costs: list[dict[str, Any]] = []
    first = next(batches)
    if group.device.type == "cuda":  # libraries keep the workspaces of their first calls
        memory(spec.compared[0], first, group, contender_of)
    for train in spec.compared:  # before the others exist, as on a GPU memory is asked of the whole process
        costs.append({**memory(train, first, group, contender_of), "step_seconds": []})
        finish_turn()
    contenders = [contender_of(train) for train in spec.compared]
    for number in range(spec.rounds + 1):
        turn = list(islice(batches, spec.steps))
        for contender, cost in zip(contenders, costs, strict=True):
            seconds = take_turn(contender, turn, group) / spec.steps
            if number:  # the first round allocates, compiles, fills caches
                cost["step_seconds"].append(seconds)
            finish_turn()
    return {
        "clock": "processor" if group.device.type == "cpu" else "wall",
        "parameters": contenders[0].parameters,
        "costs": costs,
        "seconds": time.monotonic() - start,
    }


def memory(train: Training, batch: Batch, group: Group, contender_of: Make) -> dict[str, int]:
    """`peak_bytes` of a step, the batch and the data set not counted; `kept_bytes` by the method between two.

    Epochs are the last ones and have one step each, so that what a method does at their end counts: SWAG
    collects iterates, and keeps more of them step by step, up to its rank.
    """
    alone: list[Contender] = []

    def make() -> Step:
        contender = contender_of(train)
        contender.method.begin_epoch(train.rounds - 1, train.rounds, 1)
        alone.append(contender)
        return lambda: contender.step(*batch)

    peak = peak_bytes(make, group.device)
    (contender,) = alone
    before, kept = -1, tensor_bytes(contender.method.state_dict())
    while kept != before:
        contender.step(*batch)
        before, kept = kept, tensor_bytes(contender.method.state_dict())
    return {"peak_bytes": peak, "kept_bytes": kept}


def take_turn(contender: Contender, batches: list[Batch], group: Group) -> float:
    """Seconds for these steps."""
    now = time.process_time if group.device.type == "cpu" else time.perf_counter
    group.wait()
    start = now()
    for batch in batches:
        contender.step(*batch)
    group.wait()
    return now() - start


def _open(spec: Training, group: Group) -> tuple[Make, Iterator[Batch]]:
    """How to make a contender, and the batches of all, without an end."""
    if isinstance(spec, LanguageSpec):
        from experiments.gpt2.cost import open_text

        return open_text(spec, group)
    assert isinstance(spec, TrainSpec)
    data = open_split(spec.dataset, "train", device=group.device, holdout=spec.holdout)
    return partial(ImageContender, group=group, train_size=len(data)), _batches(data, spec)


def _batches(data: Any, spec: TrainSpec) -> Iterator[Batch]:
    """Those of one epoch after the other."""
    return chain.from_iterable(data.epoch(spec.seed, epoch, spec.batch_size) for epoch in count())
