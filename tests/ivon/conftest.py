"""Fixtures shared by the tests of the optimizer."""

from collections.abc import Callable, Iterable, Iterator

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from ivon import _native, _noise, _shards, _stretches

GivenNoise = Callable[[Iterable[list[Tensor]]], None]


@pytest.fixture
def given_noise(monkeypatch: pytest.MonkeyPatch) -> GivenNoise:
    """A function that makes the optimizer use given standard normal noise: for each call a list of tensors,
    laid out in memory like the parameters.
    """

    def give(eps: Iterable[list[Tensor]]) -> None:
        remaining: Iterator[list[Tensor]] = iter(eps)

        def fill(out: Tensor, key: str, *, start: int) -> None:
            out.copy_(torch.cat([_stretches.in_memory_order(e) for e in next(remaining)]))

        monkeypatch.setattr(_noise, "fill", fill)
        # So that all of it is filled.
        monkeypatch.setattr(_shards.Noise, "is_of_whole_parameters", lambda self: False)

    return give


@pytest.fixture(params=["compiled", "eager"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By the functions of _native.c on a CPU, and by PyTorch's operations as where there is no compiler."""
    if request.param == "eager":
        monkeypatch.setattr(_native, "library", lambda: None)
    elif _native.library() is None:
        pytest.skip("no C compiler")
    return request.param


@pytest.fixture
def shrink():
    """Exchanges the gradient of a parameter, or an entry of its state, for one that is too small."""

    def exchange(optimizer: Optimizer, param: Tensor, role: str) -> None:
        if role == "gradient":
            param.grad.data = torch.ones(2)
        else:
            optimizer.state[param][role] = torch.ones(2)

    return exchange
