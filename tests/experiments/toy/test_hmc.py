"""The sampler, on densities whose moments are known."""

import math

import pytest
import torch

from experiments.toy.hmc import leapfrog, sample, split_rhat

CHAINS, SAMPLES = 16, 600


def gaussian(mean: torch.Tensor, precision: torch.Tensor):
    def energy(position: torch.Tensor):
        slope = (position - mean) @ precision
        return ((position - mean) * slope).sum(1) / 2, slope

    return energy


def draws_of(energy, dim: int, *, seed: int = 0, **changes):
    noise = torch.Generator().manual_seed(seed)
    start = 3 * torch.randn(CHAINS, dim, generator=noise, dtype=torch.float64)
    settings = {"warmup": 150, "samples": SAMPLES, "leapfrogs": 12, "step_size": 0.5, "generator": noise}
    return sample(energy, start, **{**settings, **changes})


def test_a_correlated_gaussian_is_recovered():
    mean = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    root = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.0, 0.3, 0.5]], dtype=torch.float64)
    covariance = root @ root.T
    chains = draws_of(gaussian(mean, covariance.inverse()), 3)
    assert chains.draws.shape == (CHAINS, SAMPLES, 3)
    assert split_rhat(chains.draws).max() < 1.01
    # The spread of the chains' own estimates gives the Monte-Carlo error, of which chance takes five never.
    for values, expected in (
        (chains.draws, mean),
        ((chains.draws - mean)[..., :, None] * (chains.draws - mean)[..., None, :], covariance),
    ):
        by_chain = values.mean(dim=1)
        error = by_chain.std(dim=0) / math.sqrt(CHAINS)
        assert ((by_chain.mean(dim=0) - expected).abs() < 5 * error).all()
        assert error.max() < 0.05  # or else nothing has been said


@pytest.mark.parametrize("target", [0.6, 0.9])
def test_the_warm_up_finds_the_step_size(target):
    # Many directions: with few the acceptance falls off a cliff where leapfrog steps become unstable.
    precision = torch.diag(torch.linspace(1, 9, 40, dtype=torch.float64))
    settings = {"target": target, "samples": 200, "step_size": 0.01}
    chains = draws_of(gaussian(torch.zeros(40, dtype=torch.float64), precision), 40, **settings)
    # It is the mean of the step sizes that is used, not that of what they accept, hence the room.
    assert chains.acceptance == pytest.approx(target, abs=0.08)


def test_bayesian_linear_regression_in_closed_form():
    noise = torch.Generator().manual_seed(1)
    design = torch.randn(30, 4, generator=noise, dtype=torch.float64)
    targets = design @ torch.tensor([1.0, 0.0, -1.0, 2.0], dtype=torch.float64)
    targets = targets + 0.5 * torch.randn(30, generator=noise, dtype=torch.float64)

    def energy(weights: torch.Tensor):
        misfit = (weights @ design.T - targets) / 0.5
        slope = misfit @ design / 0.5 + weights
        return (misfit.square().sum(1) + weights.square().sum(1)) / 2, slope

    precision = design.T @ design / 0.25 + torch.eye(4, dtype=torch.float64)
    exact_mean = torch.linalg.solve(precision, design.T @ targets / 0.25)
    chains = draws_of(energy, 4, step_size=0.05)
    deviation = precision.inverse().diagonal().sqrt()
    found = chains.draws.flatten(0, 1)
    # A tenth of a standard deviation: 16 chains of 600 hardly correlated draws know it to a hundredth.
    assert ((found.mean(0) - exact_mean).abs() / deviation < 0.1).all()
    assert torch.allclose(found.std(0), deviation, rtol=0.1)


def test_leapfrog_is_reversible_and_keeps_the_energy_to_second_order():
    def energy(position: torch.Tensor):
        return position.pow(4).sum(1) / 4, position.pow(3)

    noise = torch.Generator().manual_seed(0)
    position, momentum = torch.randn(2, 5, 3, generator=noise, dtype=torch.float64)

    def go(size: float, steps: int):
        end = leapfrog(energy, position, energy(position)[1], momentum, size=size, steps=steps)
        before = energy(position)[0] + momentum.square().sum(1) / 2
        return end, (end.value + end.momentum.square().sum(1) / 2 - before).abs().max()

    end, coarse = go(0.02, 50)
    back = leapfrog(energy, end.position, end.slope, -end.momentum, size=0.02, steps=50)
    assert torch.allclose(back.position, position, atol=1e-10)
    assert torch.allclose(back.momentum, -momentum, atol=1e-10)
    _, fine = go(0.01, 100)
    assert coarse / fine == pytest.approx(4, rel=0.2)


def test_chains_that_disagree_are_noticed():
    apart = torch.randn(4, 200, 2, generator=torch.Generator().manual_seed(0))
    apart[0, :, 1] += 3
    rhat = split_rhat(apart)
    assert rhat[0] < 1.02
    assert rhat[1] > 1.3


def test_an_energy_without_value_is_not_entered():
    """A half-space: what lies beyond has no energy, and the chains stay out of it."""

    def energy(position: torch.Tensor):
        inside = position[:, 0] > 0
        value = torch.where(inside, position.square().sum(1) / 2, torch.tensor(math.nan, dtype=torch.float64))
        return value, position

    start = torch.ones(8, 1, dtype=torch.float64)
    noise = torch.Generator().manual_seed(0)
    chains = sample(energy, start, warmup=0, samples=400, leapfrogs=3, step_size=0.3, generator=noise)
    assert (chains.draws > 0).all()
    # Of a half normal.
    assert float(chains.draws.mean()) == pytest.approx(math.sqrt(2 / math.pi), abs=0.1)
