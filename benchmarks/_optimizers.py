"""The optimizers that are compared, each cut in two where a training computes the gradient."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW

from benchmarks import _machine
from benchmarks.shapes import Shape
from ivon import IVON

OURS = "IVON"
ADAMW = "AdamW fused"
PEER = "ivon-opt"


class Candidate(Protocol):
    """One step of an optimizer is `draw`, then gradients appear in `p.grad`, then `update`."""

    def draw(self) -> None: ...

    def update(self) -> None: ...


class _Plain:
    """An optimizer that reads the gradient at the parameters themselves."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def draw(self) -> None:
        pass

    def update(self) -> None:
        self._optimizer.step()


class _Variational:
    """An optimizer that reads it at a posterior draw."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._context: AbstractContextManager[None]

    def draw(self) -> None:
        self._context = self._optimizer.sampled_params(train=True)
        self._context.__enter__()

    def update(self) -> None:
        self._context.__exit__(None, None, None)
        self._optimizer.step()


Builder = Callable[[list[nn.Parameter]], Candidate]

# The size of the noise matters little for speed and memory; both packages have the same arguments.
_VARIATIONAL = {"lr": 1e-3, "ess": 1e6, "weight_decay": 1e-4}

TORCH: dict[str, Builder] = {
    ADAMW: lambda weights: _Plain(AdamW(weights, fused=True)),
    "AdamW foreach": lambda weights: _Plain(AdamW(weights, foreach=True)),
    "SGD momentum": lambda weights: _Plain(SGD(weights, lr=1e-3, momentum=0.9)),
}
# Bytes for each float32 parameter at most, its gradient excluded and itself included: to tell what fits.
_BYTES = {OURS: 28, ADAMW: 12, "AdamW foreach": 20, "SGD momentum": 8, PEER: 52}


def builders(names: Iterable[str], peer: Any | None) -> dict[str, Builder]:
    """Makers of the named optimizers, ours first; the peer's too if its class is given."""

    def variational(optimizer: Any) -> Builder:
        return lambda weights: _Variational(optimizer(weights, **_VARIATIONAL))

    found = {OURS: variational(IVON), **{name: TORCH[name] for name in names}}
    return found if peer is None else {**found, PEER: variational(peer)}


def random_weights(shapes: Sequence[Shape], device: torch.device, dtype: torch.dtype) -> list[nn.Parameter]:
    """Parameters as a network has them after initialisation, roughly."""
    return [nn.Parameter(torch.randn(s, device=device, dtype=dtype).mul_(0.02)) for s in shapes]


def random_gradients(shapes: Sequence[Shape], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(s, device=device, dtype=dtype).mul_(0.01) for s in shapes]


def hand_over(weights: list[nn.Parameter], gradients: list[Tensor]) -> None:
    """What a backward pass does for an optimizer."""
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient


def fit(names: Iterable[str], parameters: int, device: torch.device) -> bool:
    """Whether these optimizers, each with its own parameters, and one set of gradients fit into memory."""
    needed = parameters * (4 + sum(_BYTES[name] for name in names))
    return needed < 0.9 * _machine.free_bytes(device)
