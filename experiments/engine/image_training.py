"""The training of an image classifier between two steps."""

import math
from collections.abc import Iterator
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from baselines.draws import keyed_generator
from baselines.method import Loss
from experiments.data import open_split
from experiments.engine.distributed import Group
from experiments.engine.evaluate import point_error
from experiments.engine.network import build
from experiments.engine.schedule import lr_factor
from experiments.engine.spec import TrainSpec
from experiments.engine.watch import Diverged
from experiments.errors import RunError


class ImageTraining:
    """A `Task` of the training loop; its rounds are epochs, and the learning rate changes between them."""

    def __init__(self, spec: TrainSpec, group: Group) -> None:
        if why_not := spec.not_shared_by(group.world):
            raise RunError(f"{group.world} processes: {why_not}")
        self.spec, self.group = spec, group
        self.shares = max(1, spec.shares // group.world)  # of this process
        self.data = open_split(spec.dataset, "train", device=group.device, holdout=spec.holdout)
        self.judged = open_split(
            spec.dataset, spec.evaluated_split, device=group.device, holdout=spec.holdout
        )
        self.network = build(spec, group, train_size=len(self.data))
        self.steps = self.data.steps(spec.batch_size)
        self.round = 0
        self.step = 0
        self.history: list[dict[str, float]] = []
        # Loss and right answers of each step of this epoch stay on the device, so that no step waits for a
        # number, and are summed once, at the end of the epoch, so that interruptions do not change the order
        # of a sum.
        self.losses = torch.zeros(self.steps, device=group.device)
        self.hits = torch.zeros(self.steps, dtype=torch.int64, device=group.device)

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "epoch": self.round,
            "step": self.step,
            "history": self.history,
            "losses": self.group.total(self.losses.clone()) / self.group.world,
            "hits": self.group.total(self.hits.clone()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.round, self.step, self.history = state["epoch"], state["step"], state["history"]
        # What all processes saw is the leading one's from here on: the sums over them stay the same.
        leads = int(self.group.leads)
        self.losses.copy_(state["losses"] * self.group.world * leads)
        self.hits.copy_(state["hits"] * leads)

    def begin_round(self) -> None:
        spec = self.spec
        factor = lr_factor(
            self.round, warmup_epochs=spec.warmup_epochs, cosine_epochs=spec.cosine_epochs or spec.epochs
        )
        for group in self.network.method.optimizer.param_groups:
            group["lr"] = spec.method.lr * factor
        self.network.method.begin_epoch(self.round, spec.epochs, self.steps)
        self.network.model.train()

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        group, spec = self.group, self.spec
        return self.data.epoch(
            spec.seed, self.round, spec.batch_size, start=self.step, rank=group.rank, world=group.world
        )

    def take_step(self, images: Tensor, labels: Tensor) -> None:
        parts = labels.chunk(self.shares)
        hits: dict[int, Tensor] = {}

        def seen(logits: Tensor, number: int) -> None:
            hits[number] = (logits.argmax(dim=1) == parts[number]).sum()  # of several draws the last counts

        network = self.network
        loss = Loss(
            network.logits,
            images,
            labels,
            precision=network.precision,
            seen=seen,
            micro_batches=self.shares,
            noise=self._noise if self.spec.shares > 1 else None,
        )
        self.losses[self.step] = network.method.step(loss)
        self.hits[self.step] = reduce(add, hits.values())
        self.step += 1

    def _noise(self, number: int) -> torch.Generator:
        """The stream of one of this process's shares of the batch: the same whichever process has it."""
        step = self.round * self.steps + self.step
        share = self.group.rank * self.shares + number
        return keyed_generator(torch.device("cpu"), self.spec.seed, "share", step, share)

    def running(self) -> dict[str, float]:
        """Mean loss (nats) and error (percent) of the training batches of this epoch so far; Diverged if not
        finite.
        """
        losses = self.group.total(self.losses[: self.step].clone()) / self.group.world
        finite = losses.isfinite()
        if not finite.all():
            raise Diverged(self.round, int((~finite).nonzero()[0]))
        hits = self.group.total(self.hits[: self.step].sum())
        seen = self.step * self.spec.batch_size
        return {"train_nll": losses.double().mean().item(), "train_error": 100 * (1 - hits.item() / seen)}

    def end_round(self) -> None:
        spec = self.spec
        running = self.running()
        if (self.round + 1) % spec.curve_every == 0 or self.round + 1 == spec.epochs:
            point = point_error(self.network, self.judged, self.group)
            if not math.isfinite(point["nll"]):  # the last step of the epoch was one too far
                raise Diverged(self.round, self.steps)
            now = {"epoch": self.round + 1, "step": (self.round + 1) * self.steps}
            self.history.append({**now, **running, **point})
        self.round, self.step = self.round + 1, 0

    def news(self) -> dict[str, Any]:
        running = self.running()
        return {
            "at": f"epoch {self.round + 1}/{self.spec.epochs}",
            "fraction": (self.round + self.step / self.steps) / self.spec.epochs,
            "loss": running["train_nll"],
            "shown": [f"accuracy {100 - running['train_error']:.1f} %"],
        }

    def facts(self) -> dict[str, Any]:
        return {"train_size": len(self.data)}
