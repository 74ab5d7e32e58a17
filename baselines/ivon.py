"""IVON (the paper's Algorithm 1) behind the verbs of a method."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from baselines.method import Loss
from ivon import IVON


class VariationalIVON:
    """`mc_samples` posterior draws a step; predictive draws come from the learned Gaussian."""

    def __init__(self, optimizer: IVON, mc_samples: int, sync: bool) -> None:
        self.optimizer = optimizer
        self.reduces_gradients = sync
        self._mc_samples = mc_samples

    def step(self, loss: Loss) -> Tensor:
        total = None
        for _ in range(self._mc_samples):
            with self.optimizer.sampled_params(train=True):
                self.optimizer.zero_grad(set_to_none=True)
                value = loss()
                value.backward()
            total = value.detach() if total is None else total + value.detach()
        self.optimizer.step()
        assert total is not None  # mc_samples >= 1 is checked by the settings
        return total / self._mc_samples

    def end_epoch(self, epoch: int) -> None:
        pass

    def draw(self, k: int, generator: torch.Generator) -> AbstractContextManager[None]:
        return nullcontext() if k == 0 else self.optimizer.sampled_params(generator=generator)

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
