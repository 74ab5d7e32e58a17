"""Methods that learn a point estimate with an ordinary optimizer: SGD, AdamW, AdaHessian."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from baselines.method import Loss


class PointEstimate:
    """An optimizer behind the verbs of a method; every predictive draw is the point estimate.

    `backward` fills the gradients from the loss; `generator` is the stream it draws from, if it draws.
    """

    reduces_gradients = False

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        backward: Callable[[Tensor], None] = Tensor.backward,
        generator: torch.Generator | None = None,
    ) -> None:
        self.optimizer = optimizer
        self._backward = backward
        self._generator = generator
        self._foreign: Tensor | None = None  # a loaded state of the generator of another kind of device

    def step(self, loss: Loss) -> Tensor:
        if self._foreign is not None:
            raise RuntimeError(
                f"{type(self.optimizer).__name__}: this training began on another kind of device, CPU or "
                "GPU, and goes on only there, as its noise does; it can be evaluated here"
            )
        self.optimizer.zero_grad(set_to_none=True)
        parts = loss.parts()
        total = None
        for number, part in enumerate(parts, 1):
            with nullcontext() if number == len(parts) else loss.apart():
                value = part() if len(parts) == 1 else part() / len(parts)
                self._backward(value)
            total = value.detach() if total is None else total + value.detach()
        loss.clip(self.optimizer)
        self.optimizer.step()
        assert total is not None  # there is always one part
        return total

    def begin_epoch(self, epoch: int, epochs: int, steps: int) -> None:
        pass

    def draw(self, k: int, generator: torch.Generator) -> AbstractContextManager[None]:
        return nullcontext()

    def state_dict(self) -> dict[str, Any]:
        noise = self._foreign
        if noise is None and self._generator is not None:
            noise = self._generator.get_state()
        return {"optimizer": self.optimizer.state_dict(), "noise": noise}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self._foreign = None
        if self._generator is None:
            return
        # On a CPU thousands of bytes, on a GPU 16: neither can go on with that of the other.
        if state["noise"].numel() == self._generator.get_state().numel():
            self._generator.set_state(state["noise"])
        else:
            self._foreign = state["noise"]
