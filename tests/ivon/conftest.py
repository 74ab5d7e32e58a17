"""Fixtures shared by the tests of the optimizer."""

from collections.abc import Callable, Iterable, Iterator

import pytest
import torch
from torch import Tensor

from ivon import _noise, _stretches

GivenNoise = Callable[[Iterable[list[Tensor]]], None]


@pytest.fixture
def given_noise(monkeypatch: pytest.MonkeyPatch) -> GivenNoise:
    """A function that makes the optimizer use given standard normal noise: for each call a list of tensors,
    laid out in memory like the parameters.
    """

    def give(eps: Iterable[list[Tensor]]) -> None:
        remaining: Iterator[list[Tensor]] = iter(eps)

        def fill(out: Tensor, key: str, *, start: int, total: int) -> None:
            out.copy_(torch.cat([_stretches.in_memory_order(e) for e in next(remaining)]))

        monkeypatch.setattr(_noise, "fill", fill)

    return give


@pytest.fixture
def cpp_compiler() -> None:
    """Skips the test where there is none."""
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler

        get_cpp_compiler()
    except Exception:
        pytest.skip("no C++ compiler")
