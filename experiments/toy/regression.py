"""Regression in one dimension with a gap in the inputs: what a method says of the function between the data.

Everything is in float64 on the CPU: a GPU would only wait for operations this small.
"""

import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from baselines.draws import keyed_generator
from baselines.method import Loss, Method
from experiments.engine.spec.toy import HMC, RegressionSpec
from experiments.engine.watch import Diverged, Stopped, Watch
from experiments.toy.hmc import sample, split_rhat
from ivon import IVON, Posterior

INPUTS = (-2.0, 2.0)  # of the examples, without the gap
GRID = torch.linspace(-3, 3, 121, dtype=torch.float64)
# With weights of standard normal prior, functions vary over a distance of about 1 and by about 1.
INPUT_SCALE, OUTPUT_SCALE = 2.0, 1.0
FIRST_STEP_SIZE = 0.02  # of the sampler's warm-up
DIGITS = 5  # of the curves in a record


class OneLayer(nn.Module):
    """f(x) = 1 / sqrt(H) sum_j c_j tanh(2 (a_j x + b_j)), with H hidden units and the 3 H weights a, b, c.

    The scales are such that a standard normal prior of every weight is a sensible prior of functions.
    """

    def __init__(self, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(3 * hidden, generator=generator, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return curve(self.weights, inputs)


def curve(weights: Tensor, inputs: Tensor) -> Tensor:
    """The networks' outputs: weights (..., 3 H), inputs (N,) -> (..., N)."""
    hidden, heights, scale = _layers(weights, inputs)
    return scale * (hidden @ heights[..., None]).squeeze(-1)


def energy(weights: Tensor, inputs: Tensor, targets: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """-log posterior up to a constant, (chains,), and its gradient (chains, 3 H) at weights (chains, 3 H).

    By hand: it is taken some hundred thousand times, and PyTorch's graph would take most of the time.
    """
    hidden, heights, scale = _layers(weights, inputs)
    misfit = (scale * (hidden @ heights[..., None]).squeeze(-1) - targets) / noise
    value = (misfit.square().sum(-1) + weights.square().sum(-1)) / 2
    outer = (scale / noise) * misfit
    inner = outer[..., None] * heights[..., None, :] * (1 - hidden.square())
    slope = torch.cat([_design(inputs).T @ inner, outer[..., None, :] @ hidden], dim=-2)
    return value, weights + slope.flatten(-2)


def _layers(weights: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor, float]:
    """Hidden units (..., N, H), their weights in the output (..., H), and the factor of the output."""
    inner = weights.unflatten(-1, (3, -1))
    return (
        (_design(inputs) @ inner[..., :2, :]).tanh(),
        inner[..., 2, :],
        OUTPUT_SCALE / math.sqrt(inner.shape[-1]),
    )


def _design(inputs: Tensor) -> Tensor:
    """(N, 2): what the slopes and the offsets are multiplied with."""
    return INPUT_SCALE * torch.stack([inputs, torch.ones_like(inputs)], dim=1)


def target(inputs: Tensor) -> Tensor:
    """The function behind the examples."""
    return torch.sin(2 * inputs)


def examples(spec: RegressionSpec) -> tuple[Tensor, Tensor]:
    """Inputs, uniform on both sides of the gap, and targets with Gaussian noise; both (N,)."""
    noise = keyed_generator(torch.device("cpu"), spec.data_seed, "regression")
    low, high = spec.gap
    left, right = low - INPUTS[0], INPUTS[1] - high
    along = (left + right) * torch.rand(spec.examples, generator=noise, dtype=torch.float64)
    inputs = (INPUTS[0] + along + (along > left) * (high - low)).sort().values
    return inputs, target(inputs) + spec.noise * torch.randn(
        len(inputs), generator=noise, dtype=torch.float64
    )


def gaussian_nll(outputs: Tensor, targets: Tensor, noise: float) -> Tensor:
    """Mean over examples of -log N(target | output, noise^2), in nats."""
    return ((outputs - targets) / noise).square().mean() / 2 + math.log(noise * math.sqrt(2 * math.pi))


def regress(spec: RegressionSpec, watch: Watch) -> dict[str, Any]:
    """Carry out the run; returns what the record says: data, mean and standard deviation of the function."""
    begin = time.monotonic()
    inputs, targets = examples(spec)
    sampled = isinstance(spec.method, HMC)
    found = _sample(spec, inputs, targets, watch) if sampled else _train(spec, inputs, targets, watch)
    functions, facts = found
    # A point estimate knows one function, and nothing of how far it may be from the truth.
    spread = _rounded(functions.std(dim=0)) if spec.draws else None
    return {
        "inputs": _rounded(inputs),
        "targets": _rounded(targets),
        "grid": _rounded(GRID),
        "truth": _rounded(target(GRID)),
        "mean": _rounded(functions.mean(dim=0)),
        "std": spread,
        **facts,
        "seconds": time.monotonic() - begin,
    }


def _train(
    spec: RegressionSpec, inputs: Tensor, targets: Tensor, watch: Watch
) -> tuple[Tensor, dict[str, Any]]:
    """Predicted functions (draws or 1, grid) after the training, and how good they are."""
    device = torch.device("cpu")
    network = OneLayer(spec.hidden, keyed_generator(device, spec.seed, "network"))
    method = spec.method.build(network, train_size=spec.examples, seed=spec.seed)

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        return gaussian_nll(outputs, targets, spec.noise)

    loss = Loss(forward=network, inputs=inputs, targets=targets, criterion=criterion)
    first_lr = spec.method.lr
    for step in range(spec.steps):
        for group in method.optimizer.param_groups:
            group["lr"] = first_lr * (1 + math.cos(math.pi * step / spec.steps)) / 2
        if not math.isfinite(float(method.step(loss))):
            raise Diverged(1, step + 1)
        _look_up(step + 1, spec.steps, watch)
    return _predict(spec, network, method, inputs, targets)


@torch.no_grad()
def _predict(
    spec: RegressionSpec, network: OneLayer, method: Method, inputs: Tensor, targets: Tensor
) -> tuple[Tensor, dict[str, Any]]:
    noise = keyed_generator(torch.device("cpu"), spec.seed, "draws")
    functions, losses = [], []
    for k in range(1, spec.draws + 1) if spec.draws else range(1):
        with method.draw(k, noise):
            functions.append(network(GRID))
            losses.append(float(gaussian_nll(network(inputs), targets, spec.noise)))
    facts = {"train_nll": sum(losses) / len(losses)}
    if isinstance(method.optimizer, IVON):
        posterior = Posterior.of(network, method.optimizer)
        # With the draws of the prediction; settings are compared by it.
        facts["elbo"] = -len(inputs) * facts["train_nll"] - posterior.kl(posterior.prior())
    return torch.stack(functions), facts


def _sample(
    spec: RegressionSpec, inputs: Tensor, targets: Tensor, watch: Watch
) -> tuple[Tensor, dict[str, Any]]:
    """Functions (draws, grid) of the exact posterior, and whether the chains agree on them."""
    method = spec.method
    assert isinstance(method, HMC)
    noise = keyed_generator(torch.device("cpu"), spec.seed, "hmc")
    start = torch.randn(method.chains, 3 * spec.hidden, generator=noise, dtype=torch.float64)  # the prior
    proposals = method.warmup + spec.steps

    chains = sample(
        lambda weights: energy(weights, inputs, targets, spec.noise),
        start,
        warmup=method.warmup,
        samples=spec.steps,
        leapfrogs=method.leapfrogs,
        step_size=FIRST_STEP_SIZE,
        generator=noise,
        each=lambda done: _look_up(done, proposals, watch),
    )
    functions = torch.stack([curve(weights, GRID) for weights in chains.draws])
    losses = [float(gaussian_nll(curve(weights, inputs), targets, spec.noise)) for weights in chains.draws]
    every = max(1, method.chains * spec.steps // spec.draws)
    return functions.flatten(0, 1)[::every], {
        # Of functions, as hidden units may change places without one.
        "rhat": float(split_rhat(functions).max()),
        "acceptance": chains.acceptance,
        "step_size": chains.step_size,
        "train_nll": sum(losses) / len(losses),
    }


def _look_up(done: int, of: int, watch: Watch) -> None:
    if done % 100 == 0:
        watch.progress({"fraction": done / of})
    if watch.stop():
        raise Stopped


def _rounded(values: Tensor) -> list[float]:
    return [round(value, DIGITS) for value in values.tolist()]
