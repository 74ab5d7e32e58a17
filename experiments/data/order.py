"""The order of an epoch and the cutting of its batches, for images in memory and streamed ones alike."""

import numpy as np
import torch
from torch import Tensor

_DATA_STREAM = 0x1DA7A  # keeps these draws apart from others that start from the same seed


def seed_sequence(*numbers: int) -> np.random.SeedSequence:
    """Well-mixed random bits from (seed, epoch, ...): neighbouring seeds and epochs share nothing."""
    return np.random.SeedSequence(numbers, spawn_key=(_DATA_STREAM,))


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The CPU generator from which everything random in an epoch is drawn."""
    state = seed_sequence(seed, epoch).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def epoch_order(count: int, generator: torch.Generator) -> Tensor:
    """A permutation of the examples."""
    return torch.randperm(count, generator=generator)


def share_of_batch(batch_size: int, rank: int, world: int) -> slice:
    """The positions of one rank in every global batch."""
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is not one of {world}")
    if batch_size % world:
        raise ValueError(f"{world} devices cannot share a batch of {batch_size} equally")
    share = batch_size // world
    return slice(rank * share, (rank + 1) * share)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Whole batches only; the rest of an epoch's order is dropped."""
    if not 1 <= batch_size <= count:
        raise ValueError(f"a batch of {batch_size} cannot be drawn from {count} images")
    return count // batch_size
