"""Draws from the posterior: where their random bits come from, and the noise added to the parameters."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ivon import _foreach as foreach
from ivon._state import State, residuals_of

Source = Callable[[torch.device], torch.Generator]  # the generator from which a device's noise is drawn


@dataclass
class NoiseStream:
    """The random stream of an optimizer: every draw is a function of (seed, purpose, count, rank).

    Three integers are the whole state, the same on every device, so a checkpoint needs no generator state.
    Test draws have a count of their own: evaluating in the middle of a training does not change it.
    """

    seed: int
    train_draws: int = 0
    test_draws: int = 0

    def next_train(self, rank: int) -> Source:
        """Source of the next training draw; ranks of equal number draw alike."""
        self.train_draws += 1
        return self._source(f"train {self.train_draws} rank {rank}")

    def next_test(self) -> Source:
        """Source of the next test draw."""
        self.test_draws += 1
        return self._source(f"test {self.test_draws}")

    def _source(self, draw: str) -> Source:
        generators: dict[torch.device, torch.Generator] = {}

        def of(device: torch.device) -> torch.Generator:
            if device not in generators:
                # A hash, as CPU generators look at 32 bits of their seed only. Devices differ by order of
                # appearance, not by name, so that it does not matter which GPU a rank has.
                text = f"{self.seed} {draw} device {len(generators)}"
                digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
                generators[device] = torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))
            return generators[device]

        return of


@dataclass
class Block:
    """A posterior draw for parameters of one group, device and dtype."""

    params: list[Tensor]
    states: list[State]
    noise: list[Tensor]  # theta - m, in the dtype of the states

    def displace(self) -> None:
        """Move the parameters, in place, from the mean to the draw."""
        residuals = residuals_of(self.states)
        if residuals is None:
            foreach.add_(self.params, self.noise)
        else:
            foreach.copy_(self.params, foreach.add(foreach.add(residuals, self.params), self.noise))


def standard_normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Independent N(0, 1) entries, as many as in `like`."""
    drawn = torch.randn(like.shape, dtype=like.dtype, device=generator.device, generator=generator)
    return drawn.to(like.device)


def posterior_noise(
    hess: list[Tensor], *, ess: float, weight_decay: float, generator: torch.Generator
) -> list[Tensor]:
    """A draw of theta - m = sigma * eps, sigma = 1 / sqrt(ess (h + weight_decay)) (Alg. 1, lines 1, 7).

    Computed as one flat tensor, of which the result are views with the strides of `hess`.
    """
    root = torch.cat([in_memory_order(h) for h in hess]).add_(weight_decay).mul_(ess).sqrt_()
    flat = standard_normal(root, generator).div_(root)
    chunks = flat.split([h.numel() for h in hess])
    return [c.as_strided(h.shape, h.stride(), c.storage_offset()) for c, h in zip(chunks, hess, strict=True)]


def in_memory_order(dense: Tensor) -> Tensor:
    """A flat view of a tensor without gaps, whatever its strides (channels_last, transposed)."""
    return dense.as_strided((dense.numel(),), (1,))
