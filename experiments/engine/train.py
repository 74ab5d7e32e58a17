"""The one training loop. It may be killed at any instruction and continues from its last checkpoint, bit for
bit.
"""

import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.method import Loss
from experiments.data import open_split
from experiments.engine import checkpoint
from experiments.engine.distributed import Group
from experiments.engine.evaluate import point_error
from experiments.engine.network import build
from experiments.engine.schedule import lr_factor
from experiments.engine.spec import TrainSpec
from experiments.engine.watch import Stopped, Watch

# What a kill costs is an epoch at most, and at most `Watch.checkpoint_seconds` of a long one. After an epoch
# shorter than this it is not worth a file.
EPOCH_CHECKPOINT_SECONDS = 5.0


class Diverged(Exception):
    """The loss stopped being finite: the run ends here, whoever runs it."""

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__(f"loss is not finite in epoch {epoch}, step {step}")
        self.epoch, self.step = epoch, step


class Clock:
    """Seconds of work on this run over all its attempts, and when something was last done."""

    def __init__(self, already: float) -> None:
        self._start = time.monotonic() - already
        self._last_news = self._last_checkpoint = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._start

    def news_due(self, interval: float) -> bool:
        due = time.monotonic() - self._last_news >= interval
        if due:
            self._last_news = time.monotonic()
        return due

    def checkpoint_due(self, interval: float) -> bool:
        due = time.monotonic() - self._last_checkpoint >= interval
        if due:
            self._last_checkpoint = time.monotonic()
        return due


class Training:
    """A run between two steps; `state_dict` is all of it."""

    def __init__(self, spec: TrainSpec, group: Group) -> None:
        self.spec, self.group = spec, group
        self.data = open_split(spec.dataset, "train", device=group.device, holdout=spec.holdout)
        self.judged = open_split(
            spec.dataset, spec.evaluated_split, device=group.device, holdout=spec.holdout
        )
        self.network = build(spec, group, train_size=len(self.data))
        self.precision = partial(
            torch.autocast, group.device.type, dtype=torch.bfloat16, enabled=spec.precision == "bf16"
        )
        self.steps = self.data.steps(spec.batch_size)
        self.epoch = 0
        self.step = 0  # within the epoch
        self.history: list[dict[str, float]] = []
        # Loss and right answers of each step of this epoch stay on the device, so that no step waits for a
        # number, and are summed once, at the end of the epoch, so that interruptions do not change the order
        # of a sum.
        self.losses = torch.zeros(self.steps, device=group.device)
        self.hits = torch.zeros(self.steps, dtype=torch.int64, device=group.device)

    def state_dict(self, seconds: float) -> dict[str, Any]:
        """Under several processes called by all of them: a method may have to gather its parts."""
        return {
            "network": self.network.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "history": self.history,
            "losses": self.group.total(self.losses.clone()) / self.group.world,
            "hits": self.group.total(self.hits.clone()),
            "seconds": seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.epoch, self.step, self.history = state["epoch"], state["step"], state["history"]
        # What all processes saw is the leading one's from here on: the sums over them stay the same.
        leads = int(self.group.leads)
        self.losses.copy_(state["losses"] * self.group.world * leads)
        self.hits.copy_(state["hits"] * leads)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What is left of this epoch."""
        group, spec = self.group, self.spec
        return self.data.epoch(
            spec.seed, self.epoch, spec.batch_size, start=self.step, rank=group.rank, world=group.world
        )

    def take_step(self, images: Tensor, labels: Tensor) -> None:
        def seen(logits: Tensor) -> None:
            self.hits[self.step] = (logits.argmax(dim=1) == labels).sum()

        network = self.network
        loss = Loss(network.logits, images, labels, precision=self.precision, seen=seen)
        self.losses[self.step] = network.method.step(loss)
        self.step += 1

    def running(self) -> dict[str, float]:
        """Mean loss (nats) and error (percent) of the training batches of this epoch so far; Diverged if not
        finite.
        """
        losses = self.group.total(self.losses[: self.step].clone()) / self.group.world
        finite = losses.isfinite()
        if not finite.all():
            raise Diverged(self.epoch, int((~finite).nonzero()[0]))
        hits = self.group.total(self.hits[: self.step].sum())
        seen = self.step * self.spec.batch_size
        return {"train_nll": losses.double().mean().item(), "train_error": 100 * (1 - hits.item() / seen)}

    def end_epoch(self) -> None:
        spec = self.spec
        running = self.running()
        if (self.epoch + 1) % spec.curve_every == 0 or self.epoch + 1 == spec.epochs:
            point = point_error(self.network, self.judged, self.group)
            if not math.isfinite(point["nll"]):  # the last step of the epoch was one too far
                raise Diverged(self.epoch, self.steps)
            now = {"epoch": self.epoch + 1, "step": (self.epoch + 1) * self.steps}
            self.history.append({**now, **running, **point})
        self.epoch, self.step = self.epoch + 1, 0


def train(spec: TrainSpec, folder: Path, group: Group, watch: Watch) -> dict[str, Any]:
    """Train `spec`, or what is left of it, in `folder`; returns what its record says.

    The last checkpoint holds the trained network. Raises Diverged, or Stopped when `watch.stop` asked for it.
    """
    training = Training(spec, group)
    saved = checkpoint.load(folder, spec.id, warn=watch.warn)
    if saved is not None:
        training.load_state_dict(saved)
    clock = Clock(0.0 if saved is None else saved["seconds"])

    def save() -> None:
        state = training.state_dict(clock.seconds())
        if group.leads:
            # An epoch's end counts as a step: a checkpoint after it is newer than one after its last step.
            checkpoint.save(folder, spec.id, training.epoch * (training.steps + 1) + training.step, state)

    while training.epoch < spec.epochs:
        _set_lr(training)
        training.network.method.begin_epoch(training.epoch, spec.epochs, training.steps)
        training.network.model.train()
        for images, labels in training.batches():
            training.take_step(images, labels)
            if not look_up(training, clock, watch):
                continue
            watch.progress(news(training, clock))
            if group.agree(watch.stop()):
                save()
                raise Stopped
            if group.agree(clock.checkpoint_due(watch.checkpoint_seconds)):
                save()
        training.end_epoch()
        if training.epoch < spec.epochs and group.agree(
            clock.checkpoint_due(min(watch.checkpoint_seconds, EPOCH_CHECKPOINT_SECONDS))
        ):
            save()
    save()
    return {
        "history": training.history,
        "seconds": clock.seconds(),
        "steps": spec.epochs * training.steps,
        "train_size": len(training.data),
        "parameters": sum(p.numel() for p in training.network.model.parameters()),
    }


def look_up(training: Training, clock: Clock, watch: Watch) -> bool:
    """Whether to look at clock and signals after this step: the same answer on every process."""
    if training.group.world > 1:
        taken = training.epoch * training.steps + training.step  # an epoch may be shorter than the interval
        return taken % watch.group_check_steps == 0
    return clock.news_due(watch.progress_seconds)


def _set_lr(training: Training) -> None:
    spec = training.spec
    factor = lr_factor(
        training.epoch, warmup_epochs=spec.warmup_epochs, cosine_epochs=spec.cosine_epochs or spec.epochs
    )
    for group in training.network.method.optimizer.param_groups:
        group["lr"] = spec.method.lr * factor


def news(training: Training, clock: Clock) -> dict[str, Any]:
    running = training.running()
    return {
        "epoch": training.epoch,
        "epochs": training.spec.epochs,
        "fraction": (training.epoch + training.step / training.steps) / training.spec.epochs,
        "loss": running["train_nll"],
        "accuracy": 100 - running["train_error"],
        "seconds": clock.seconds(),
    }
