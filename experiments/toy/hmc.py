"""Hamiltonian Monte Carlo (Neal, 2011): draws from a density known up to a factor, for networks of some
hundred weights.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

JITTER = 0.2  # of the step size: trajectories of one length may be a period of the motion and lead nowhere


@dataclass(frozen=True, kw_only=True)
class Chains:
    """What the sampler returns: draws of shape (chains, samples, P), and how it went."""

    draws: Tensor
    acceptance: float  # mean probability of acceptance after the warm-up
    step_size: float


class DualAveraging:
    """Step size at which proposals are accepted with a wished-for probability (Hoffman & Gelman, 2014,
    Sec. 3.2).
    """

    def __init__(self, first: float, target: float) -> None:
        self._centre, self._target = math.log(10 * first), target
        self._shortfall, self._log_mean, self._count = 0.0, 0.0, 0
        self.step_size = first

    def learn(self, acceptance: float) -> None:
        """Take in the acceptance probability of one more proposal: Eq. 6 with the paper's constants."""
        self._count += 1
        rate = 1 / (self._count + 10)
        self._shortfall += rate * (self._target - acceptance - self._shortfall)
        log_step = self._centre - math.sqrt(self._count) / 0.05 * self._shortfall
        self._log_mean += self._count**-0.75 * (log_step - self._log_mean)
        self.step_size = math.exp(log_step)

    @property
    def mean_step_size(self) -> float:
        """What to go on with after the warm-up."""
        return math.exp(self._log_mean)


# Positions (chains, P) -> -log density up to a constant (chains,), and its gradient (chains, P).
Energy = Callable[[Tensor], tuple[Tensor, Tensor]]


def sample(
    energy: Energy,
    start: Tensor,
    *,
    warmup: int,
    samples: int,
    leapfrogs: int,
    step_size: float,
    generator: torch.Generator,
    target: float = 0.8,
    each: Callable[[int], None] = lambda proposals: None,
) -> Chains:
    """Chains side by side from `start` (chains, P).

    The `warmup` proposals find the step size, starting from `step_size`, and are dropped. `each` is told how
    many proposals have been made.
    """
    position = start.detach().clone()
    value, slope = energy(position)
    adapted = DualAveraging(step_size, target)
    kept, accepted = [], 0.0
    for number in range(warmup + samples):
        warm = number >= warmup
        jitter = 1 + JITTER * (2 * float(torch.rand((), generator=generator)) - 1)
        size = jitter * (adapted.mean_step_size if warm and warmup else adapted.step_size)
        momentum = _normals(position, generator)
        proposal = leapfrog(energy, position, slope, momentum, size=size, steps=leapfrogs)
        log_ratio = (
            value + momentum.square().sum(1) / 2 - proposal.value - proposal.momentum.square().sum(1) / 2
        )
        probability = log_ratio.clamp(max=0).exp().nan_to_num(0.0)  # an energy that overflowed: refused
        taken = torch.rand(len(start), generator=generator, dtype=start.dtype) < probability
        position = torch.where(taken[:, None], proposal.position, position)
        slope = torch.where(taken[:, None], proposal.slope, slope)
        value = torch.where(taken, proposal.value, value)
        if warm:
            kept.append(position)
            accepted += float(probability.mean())
        else:
            adapted.learn(float(probability.mean()))
        each(number + 1)
    return Chains(
        draws=torch.stack(kept, dim=1),
        acceptance=accepted / samples,
        step_size=adapted.mean_step_size if warmup else step_size,
    )


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Where a trajectory is: all of shape (chains, P), the energy of the position of shape (chains,)."""

    position: Tensor
    momentum: Tensor
    value: Tensor
    slope: Tensor


def leapfrog(
    energy: Energy,
    position: Tensor,
    slope: Tensor,
    momentum: Tensor,
    *,
    size: float,
    steps: int,
) -> Phase:
    """`steps` leapfrog steps; `slope` is the gradient of the energy at `position`. Reversible, and keeps
    volumes.
    """
    value = torch.zeros(len(position))
    for _ in range(steps):
        momentum = momentum - size / 2 * slope
        position = position + size * momentum
        value, slope = energy(position)
        momentum = momentum - size / 2 * slope
    return Phase(position=position, momentum=momentum, value=value, slope=slope)


def split_rhat(draws: Tensor) -> Tensor:
    """Potential scale reduction (chains, samples, ...) -> (...): near 1 once chains, each cut in two, agree.

    Gelman et al. (2013), Bayesian Data Analysis, Sec. 11.4.
    """
    half = draws.shape[1] // 2
    halves = torch.cat([draws[:, :half], draws[:, half : 2 * half]])
    within = halves.var(dim=1).mean(dim=0)
    between = halves.mean(dim=1).var(dim=0)
    return ((half - 1) / half + between / within).sqrt()


def _normals(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype)
