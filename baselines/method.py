"""What every training method looks like to the one training loop and the one evaluation loop.

A method is built by its settings (`baselines.settings`) for one network. It differs from others only in how
it takes a step, what it does at the beginning of an epoch, and how it yields predictive draws.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ivon import per_example_backward


@dataclass(frozen=True)
class Loss:
    """The loss of one mini-batch, computed anew at the weights that the network holds at each call.

    `loss()` is what most methods need: one forward pass and the mean loss, in nats.
    """

    forward: Callable[[Tensor], Tensor]  # the network as it is trained, perhaps wrapped or compiled
    inputs: Tensor  # examples along the first dimension, like those of the targets and of the outputs
    targets: Tensor
    criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy  # outputs, targets -> their mean loss
    # Precision of the run, for calls of the network itself in place of `forward`.
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext
    # Is shown the outputs of every forward pass, detached, and the number of their micro-batch.
    seen: Callable[[Tensor, int], None] | None = None
    # Equal parts that are computed one after the other, each with a draw of its own. More than one, and a
    # `max_grad_norm`, are for IVON and for point estimates; other methods refuse them (`check_undivided`).
    micro_batches: int = 1
    number: int = 0  # of this part among them
    # The stream for the draws of each of them, where it must not be the method's own; IVON heeds it.
    noise: Callable[[int], torch.Generator] | None = None
    max_grad_norm: float = math.inf  # IVON clips the gradients of each draw, other methods their mean
    # Within it a backward pass leaves its gradients on this process, to be reduced with those that follow.
    apart: Callable[[], AbstractContextManager[Any]] = nullcontext

    def __call__(self) -> Tensor:
        outputs = self.forward(self.inputs)
        if self.seen is not None:
            self.seen(outputs.detach(), self.number)
        return self.criterion(outputs, self.targets)

    def parts(self) -> list["Loss"]:
        """The loss of each micro-batch; their mean is that of the mini-batch."""
        if self.micro_batches == 1:
            return [self]
        size, rest = divmod(len(self.inputs), self.micro_batches)
        if rest:
            raise ValueError(f"micro_batches {self.micro_batches}: must divide {len(self.inputs)} examples")
        pieces = zip(self.inputs.split(size), self.targets.split(size), strict=True)
        return [
            replace(self, inputs=x, targets=y, micro_batches=1, number=i) for i, (x, y) in enumerate(pieces)
        ]

    def check_undivided(self, method: str) -> None:
        """ValueError if a method that takes the mini-batch as it is would leave out what is asked for."""
        if self.micro_batches > 1 or self.max_grad_norm < math.inf:
            raise ValueError(
                f"{method} needs micro_batches 1 and max_grad_norm inf, got {self.micro_batches} and "
                f"{self.max_grad_norm}"
            )

    def clip(self, optimizer: torch.optim.Optimizer) -> None:
        """Scale all gradients together so that their norm is at most `max_grad_norm`."""
        if self.max_grad_norm < math.inf:
            params = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(params, self.max_grad_norm)

    def per_example_backward(self, network: nn.Module, *, chunk_size: int | None = None) -> Tensor:
        """The mean loss, without graph; `p.grad` and `p.squared_grad` are set (`ivon.per_example_backward`).

        `network` is the bare one, as wrappers and compilers do not let single examples through.
        """

        def of_one(outputs: Tensor, target: Tensor) -> Tensor:
            return self.criterion(outputs.float(), target)

        chunks: list[Tensor] = []
        with self.precision():
            value = per_example_backward(
                network, of_one, self.inputs, self.targets, chunk_size=chunk_size, seen=chunks.append
            )
        if self.seen is not None:
            self.seen(torch.cat(chunks), self.number)
        return value


class Method(Protocol):
    """The verbs of a method; `baselines/point.py` is the shortest example."""

    optimizer: torch.optim.Optimizer  # its param_groups carry the learning rate that the schedule moves
    # Averages gradients over a process group by itself; then there is no DDP around the network.
    reduces_gradients: bool

    def step(self, loss: Loss) -> Tensor:
        """One update of the network; returns the (detached, scalar) mini-batch loss it was computed from."""
        ...

    def begin_epoch(self, epoch: int, epochs: int, steps: int) -> None:
        """Called before the first step of each of the `epochs`, counted from 0, and when one is resumed.

        It has `steps` steps, and the parameter groups have the learning rate of the schedule: a method with a
        schedule of its own sets another one.
        """
        ...

    def draw(self, k: int, generator: torch.Generator) -> AbstractContextManager[None]:
        """The network holds predictive draw `k` inside the context, and afterwards what it held before.

        `k = 0` is the point estimate (IVON@mean); `k >= 1` are draws, taken from `generator`.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that the method adds to the network's weights: tensors, numbers and containers of them."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken."""
        ...
