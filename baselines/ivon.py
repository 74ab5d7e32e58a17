"""IVON (the paper's Algorithm 1) behind the verbs of a method."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from baselines.method import Loss
from baselines.precision import as_statistic
from ivon import IVON


class VariationalIVON:
    """`mc_samples` posterior draws a step; predictive draws come from the learned Gaussian.

    An optimizer with hess_approx "ggn" takes the squares that it finds at the parameters for its estimate of
    the Hessian. They are those of the gradients of single examples; with `batch_squares` that of the gradient
    of the mini-batch.
    """

    def __init__(self, network: nn.Module, optimizer: IVON, *, batch_squares: bool = False) -> None:
        self.optimizer = optimizer
        self._batch_squares = batch_squares
        self._of_examples = optimizer.hess_approx == "ggn" and not batch_squares
        # Gradients of single examples bypass DistributedDataParallel, which would average them over devices.
        self.reduces_gradients = optimizer.sync or self._of_examples
        alone = not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1
        if self._of_examples and not optimizer.sync and not alone:
            raise ValueError("hess_approx 'ggn' in a process group needs sync true")
        self._network = network

    def step(self, loss: Loss) -> Tensor:
        total, parts = None, loss.parts()
        for part in parts:
            noise = None if loss.noise is None else loss.noise(part.number)
            for _ in range(self.optimizer.mc_samples):
                with self.optimizer.sampled_params(train=True, generator=noise):
                    self.optimizer.zero_grad(set_to_none=True)
                    value = self._backward(part)
                    loss.clip(self.optimizer)
                    if self._batch_squares:
                        self._keep_squares()
                total = value if total is None else total + value
        self.optimizer.step()
        assert total is not None  # the optimizer has checked that mc_samples >= 1
        return total / (self.optimizer.mc_samples * len(parts))

    def _backward(self, loss: Loss) -> Tensor:
        if self._of_examples:
            return loss.per_example_backward(self._network)
        value = loss()
        value.backward()
        return value.detach()

    def _keep_squares(self) -> None:
        """Of the gradients as they are by now, which may be clipped."""
        for param in self._network.parameters():
            if param.grad is not None:
                param.squared_grad = as_statistic(param.grad).square()  # type: ignore[attr-defined]

    def begin_epoch(self, epoch: int, epochs: int, steps: int) -> None:
        pass

    def draw(self, k: int, generator: torch.Generator) -> AbstractContextManager[None]:
        return nullcontext() if k == 0 else self.optimizer.sampled_params(generator=generator)

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
