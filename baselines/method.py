"""What every training method looks like to the one training loop and the one evaluation loop.

A method is built by its settings (`baselines.settings`) for one network. It differs from others only in how
it takes a step, what it does at the end of an epoch, and how it yields predictive draws.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

# One forward pass at the current weights: the mean loss of the mini-batch, in nats.
Loss = Callable[[], Tensor]


class Method(Protocol):
    """The verbs of a method; `baselines/point.py` is the shortest example."""

    optimizer: torch.optim.Optimizer  # its param_groups carry the learning rate that the schedule moves
    # Averages gradients over a process group by itself; then there is no DDP around the network.
    reduces_gradients: bool

    def step(self, loss: Loss) -> Tensor:
        """One update of the network; returns the (detached, scalar) mini-batch loss it was computed from."""
        ...

    def end_epoch(self, epoch: int) -> None:
        """Called after the last step of each epoch, counted from 0."""
        ...

    def draw(self, k: int, generator: torch.Generator) -> AbstractContextManager[None]:
        """The network holds predictive draw `k` inside the context and its point estimate afterwards.

        `k = 0` is the point estimate itself (IVON@mean); `k >= 1` are draws, taken from `generator`.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that the method adds to the network's weights: tensors, numbers and containers of them."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken."""
        ...
