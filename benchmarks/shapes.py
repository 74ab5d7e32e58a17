"""Shapes of the parameters of the networks on which optimizers are measured."""

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import nn

from experiments.models import MODELS
from experiments.models.gpt2 import SIZES
from experiments.models.gpt2.network import GPT2

Shape = tuple[int, ...]

GPT2_NAMES = ("gpt2-small", "gpt2-medium")
NAMES = ("resnet20", "resnet50", *GPT2_NAMES)


def shapes_of(name: str) -> list[Shape]:
    """Shapes of a network's parameters in the order of its modules: one of NAMES."""
    if name in GPT2_NAMES:
        return _shapes(lambda: GPT2(SIZES[name]))
    if name == "resnet20":
        return _shapes(lambda: MODELS["resnet20"].build(10, side=32))
    if name == "resnet50":
        return _shapes(lambda: MODELS["resnet50"].build(1000, side=224))
    raise ValueError(f"shapes must be one of {', '.join(NAMES)}, got {name!r}")


def total(shapes: Sequence[Shape]) -> int:
    """How many numbers tensors of these shapes hold."""
    return sum(prod(shape) for shape in shapes)


def _shapes(build: Callable[[], nn.Module]) -> list[Shape]:
    with torch.device("meta"):  # takes no memory
        return [tuple(parameter.shape) for parameter in build().parameters()]
