"""What predictive draws are made of: noise that is a function of a key, and weights put in place and back.

Weights of many shapes are handled as one flat vector, so that a draw is a few operations of a network's size.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from baselines.precision import as_statistic


def keyed_generator(device: torch.device, *key: object) -> torch.Generator:
    """A stream of its own for every key, such as (seed, "step", 12).

    A checkpoint then needs the key alone and goes on on any device, which a generator's state does not.
    """
    # A hash, as CPU generators look at 32 bits of their seed only.
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """All numbers of the tensors, a detached copy of shape (P,) in the precision of statistics."""
    return torch.cat([as_statistic(tensor.detach()).reshape(-1) for tensor in tensors])


def shaped(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The parts of a vector (P,) in the shapes of `like`: the inverse of `flat`, views."""
    parts = vector.split([tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]


@contextmanager
def replaced(params: Sequence[Tensor], vector: Tensor) -> Iterator[None]:
    """The parameters hold `vector` inside, and afterwards what they held before, bit for bit.

    As the parameters are changed in place, `backward` has to be called inside.
    """
    with torch.no_grad():
        before = [param.clone() for param in params]  # keeps the memory format, which `flat` does not
        torch._foreach_copy_(list(params), shaped(vector, params))
    torch.clear_autocast_cache()  # it has 16-bit copies of the weights as they were
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(params), before)
        torch.clear_autocast_cache()
