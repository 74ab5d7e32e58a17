"""Where the random numbers of a draw come from: standard normals that are a function of a key and a place."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from ivon import _native, _threefry


@dataclass
class NoiseStream:
    """The random stream of an optimizer: every draw is a function of (seed, purpose, count, rank).

    Three integers are the whole state, the same on every device, so a checkpoint needs no generator state.
    Test draws have a count of their own: evaluating in the middle of a training does not change it.
    """

    seed: int
    train_draws: int = 0
    test_draws: int = 0

    def next_train(self, rank: int) -> str:
        """Key of the next training draw; ranks of equal number draw alike."""
        self.train_draws += 1
        return f"{self.seed} train {self.train_draws} rank {rank}"

    def next_test(self) -> str:
        """Key of the next test draw."""
        self.test_draws += 1
        return f"{self.seed} test {self.test_draws}"


@torch.no_grad()
def fill(out: Tensor, key: str, *, start: int) -> None:
    """Write into the flat tensor `out` the numbers start, start + 1, ... that belong to `key`.

    On a CPU any part of the numbers can be had alone (a rank needs those of its shard). On a GPU those of one
    call come from one kernel: they are a function of (key, start).
    """
    if out.device.type != "cpu":
        generator = torch.Generator(out.device).manual_seed(seed_of(f"{key} from {start}"))
        out.normal_(generator=generator)
    elif not _native.normals(out, seed_of(key), start):
        _threefry.fill(out, seed_of(key), start)


def seed_of(key: str) -> int:
    """64 bits."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
