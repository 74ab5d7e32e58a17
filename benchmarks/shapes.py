"""Shapes of the parameters of the networks on which optimizers are measured."""

from collections.abc import Sequence
from math import prod

import torch

from experiments.models import MODELS

Shape = tuple[int, ...]

VOCABULARY = 50_304  # GPT-2's 50,257 tokens, rounded up to a multiple of 64
CONTEXT = 1024

GPT2_SIZES = {"gpt2-small": (12, 768), "gpt2-medium": (24, 1024)}  # blocks, width
NAMES = ("resnet20", "resnet50", *GPT2_SIZES)


def shapes_of(name: str) -> list[Shape]:
    """Shapes of a network's parameters in the order of its modules: one of NAMES."""
    if name in GPT2_SIZES:
        return gpt2(*GPT2_SIZES[name])
    if name == "resnet20":
        return _of_network("resnet20", classes=10, side=32)
    if name == "resnet50":
        return _of_network("resnet50", classes=1000, side=224)
    raise ValueError(f"shapes must be one of {', '.join(NAMES)}, got {name!r}")


def gpt2(blocks: int, width: int, *, vocabulary: int = VOCABULARY, context: int = CONTEXT) -> list[Shape]:
    """GPT-2 without biases; the output layer is the token embedding and counts once."""
    attention = [(width,), (3 * width, width), (width, width)]  # norm, query-key-value, projection
    perceptron = [(width,), (4 * width, width), (width, 4 * width)]
    return [(vocabulary, width), (context, width), *(attention + perceptron) * blocks, (width,)]


def total(shapes: Sequence[Shape]) -> int:
    """How many numbers tensors of these shapes hold."""
    return sum(prod(shape) for shape in shapes)


def _of_network(name: str, *, classes: int, side: int) -> list[Shape]:
    with torch.device("meta"):  # shapes without memory
        network = MODELS[name].build(classes, side=side)
    return [tuple(parameter.shape) for parameter in network.parameters()]
