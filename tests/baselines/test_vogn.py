"""VOGN and OGN against hand-derived steps, a closed-form posterior, and a loop over the examples."""

import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.method import Loss
from baselines.settings import OGN, VOGN
from baselines.vogn import TAU_START, weights_and_norms
from baselines.vogn import VOGN as Optimizer
from experiments.models import MODELS

X = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [0.5, -2.0]], dtype=torch.float64)
Y = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
START = [0.3, -0.2]
DEEP = ("preresnet110", "densenet121", "resnet50")
SETTINGS = {"lr": 0.05, "data_size": 30.0, "prior_precision": 2.0, "beta1": 0.8, "beta2": 0.3}


def linear() -> nn.Parameter:
    return nn.Parameter(torch.tensor(START, dtype=torch.float64))


def squared_error(w: nn.Parameter, x: Tensor, y: Tensor) -> Tensor:
    """Gradients of the examples' (x.w - y)^2 / 2 by hand."""
    residuals = x @ w.detach() - y
    of_each = residuals[:, None] * x
    w.grad, w.squared_grad = of_each.mean(0), of_each.square().mean(0)
    return residuals.square().mean() / 2


def train(optimizer: Optimizer, w: nn.Parameter, steps: int) -> list[Tensor]:
    """The weights at which gradients were computed, one after the other."""
    seen = []

    def closure() -> Tensor:
        seen.append(w.detach().clone())
        return squared_error(w, X, Y)

    for _ in range(steps):
        optimizer.step(closure)
    return seen


@pytest.mark.parametrize("draws", [0, 1, 3])
@pytest.mark.parametrize(
    ("gamma", "rho", "tau_end", "warmup"), [(0.0, 1.0, 1.0, 0), (0.1, 5.0, 0.5, 0), (0.1, 5.0, 0.5, 2)]
)
def test_steps_are_the_hand_derived_ones(draws, gamma, rho, tau_end, warmup):
    w = linear()
    tempering = {"damping": gamma, "data_factor": rho, "tau": tau_end, "warmup_steps": warmup}
    optimizer = Optimizer([w], **SETTINGS, **tempering, mc_samples=draws)
    seen = [point.numpy() for point in train(optimizer, w, 4)]

    x, y = X.numpy(), Y.numpy()

    def ghat_and_hhat(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gradients = (x @ w - y)[:, None] * x
        return gradients.mean(axis=0), (gradients**2).mean(axis=0)

    mu, m = np.array(START), np.zeros(2)
    assert (seen.pop(0) == mu).all()  # the first curvature is that at the mean
    s = ghat_and_hhat(mu)[1]
    for t in range(4):
        rise = TAU_START + (1 - TAU_START) * t / warmup if t < warmup else 1.0
        tau = tau_end * rise
        delta = tau * 2.0 / (rho * 30.0)
        points = [seen.pop(0) for _ in range(max(draws, 1))]
        assert np.allclose(points[0], mu, rtol=1e-12, atol=0) == (draws == 0)
        pairs = [ghat_and_hhat(point) for point in points]
        ghat, hhat = (np.mean([pair[i] for pair in pairs], axis=0) for i in (0, 1))
        m = 0.8 * m + ghat + delta * mu
        s = (1 - tau * 0.3) * s + 0.3 * hhat
        mu = mu - 0.05 * m / (s + delta + gamma)
    state = optimizer.state[w]
    for found, expected in ((w.detach(), mu), (state["momentum"], m), (state["curvature"], s)):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)  # double precision, four steps


def test_draws_have_the_posteriors_spread():
    """1 / (N (s + delta + gamma)) with N = rho times the data and delta = tau d / N, the test's noise too."""
    w = linear()
    optimizer = Optimizer([w], **SETTINGS, damping=0.1, data_factor=2.0, tau=0.5, mc_samples=0)
    train(optimizer, w, 3)
    variances = 1 / (60 * (optimizer.state[w]["curvature"] + 0.5 * 2.0 / 60 + 0.1))
    generator = torch.Generator().manual_seed(0)
    draws = []
    for _ in range(4000):
        with optimizer.sampled_params(generator):
            draws.append(w.detach().clone())
    noise = (torch.stack(draws) - w.detach()) / variances.sqrt()
    # Five standard errors of a mean, of a mean square and of a correlation of 4000 normal numbers.
    assert (noise.mean(0).abs() < 5 / 4000**0.5).all()
    assert ((noise.square().mean(0) - 1).abs() < 5 * (2 / 4000) ** 0.5).all()
    assert noise.prod(1).mean().abs() < 5 / 4000**0.5


def test_training_draws_have_it_too():
    w = linear()
    optimizer = Optimizer([w], **{**SETTINGS, "lr": 0.0}, mc_samples=1)
    noise = []
    for _ in range(1000):
        before = optimizer.state[w]["curvature"].clone() if w in optimizer.state else None
        point = train(optimizer, w, 1)[-1]
        if before is not None:
            noise.append((point - w.detach()) * (30 * (before + 2.0 / 30)).sqrt())
    squares = torch.stack(noise).square()
    assert ((squares.mean(0) - 1).abs() < 5 * (2 / 999) ** 0.5).all()  # five standard errors


def test_linear_regression_ends_at_the_exact_mean_field_posterior():
    """Of a Gaussian model with unit noise: variances 1 / (sum x^2 + d), the mean that of the full posterior.

    The mean square of gradients is the Gauss-Newton matrix only where E_q[residual^2] is 1: residuals e are
    made so, and m = X^T e / d then solves the equation of the mean, X^T (y - X m) = d m.
    """
    d = 2.0
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(20, 3, dtype=torch.float64, generator=generator)
    exact = 1 / (x.square().sum(0) + d)
    signs = torch.empty(20, dtype=torch.float64).bernoulli_(0.5, generator=generator) * 2 - 1
    residuals = signs * (1 - x.square() @ exact).sqrt()
    mean = x.T @ residuals / d
    y = x @ mean + residuals

    w = nn.Parameter(mean + 2 * exact.sqrt())
    optimizer = Optimizer([w], 0.1, 20, prior_precision=d, beta1=0.5, beta2=0.1, mc_samples=4)
    means, precisions = [], []
    for _ in range(500):
        optimizer.step(lambda: squared_error(w, x, y))
        means.append(w.detach().clone())
        precisions.append(20 * optimizer.state[w]["curvature"] + d)
    settled = slice(100, None)
    # With twelve seeds of the noise the means were off by up to 0.065 of a posterior standard deviation, the
    # precisions by up to 0.017.
    off = (torch.stack(means)[settled].mean(0) - mean) / exact.sqrt()
    assert off.abs().max() < 0.1
    torch.testing.assert_close(torch.stack(precisions)[settled].mean(0), 1 / exact, rtol=0.05, atol=0)


def test_without_noise_vogn_is_ogn():
    """With ever more data the posterior shrinks onto the mean; the prior keeps its weight."""
    one, other = linear(), linear()
    many = {**SETTINGS, "data_size": 1e26, "prior_precision": 2e24}
    train(Optimizer([one], **many, mc_samples=2), one, 5)
    train(Optimizer([other], **many, mc_samples=0), other, 5)
    torch.testing.assert_close(one, other, rtol=1e-9, atol=0)  # the noise is of size 1e-13


def test_seed_decides_the_noise():
    points = []
    for seed in (0, 0, 1):
        w = linear()
        points.append(torch.stack(train(Optimizer([w], **SETTINGS, seed=seed, mc_samples=2), w, 3)))
    assert torch.equal(points[0], points[1])
    assert len(points[0].unique(dim=0)) == 7  # every draw is another one
    assert not torch.equal(points[0][1:], points[2][1:])


def test_without_posterior_there_is_neither_noise_nor_prior():
    w, fixed = linear(), linear()
    groups = [{"params": [w]}, {"params": [fixed], "posterior": False}]
    optimizer = Optimizer(groups, **SETTINGS, damping=0.1)

    def closure() -> Tensor:
        for p in (w, fixed):
            squared_error(p, X, Y)
        assert not optimizer.state[fixed] or torch.equal(fixed, before)
        return torch.zeros(())

    before = fixed.detach().clone()
    for _ in range(2):
        before = fixed.detach().clone()
        optimizer.step(closure)
    alone = linear()
    no_prior = {**SETTINGS, "prior_precision": 0.0}
    train(Optimizer([alone], **no_prior, damping=0.1, mc_samples=0), alone, 2)
    assert torch.equal(fixed, alone)


def test_resumes_in_the_middle_of_the_warm_up():
    w, again = linear(), linear()
    options = {**SETTINGS, "warmup_steps": 6, "mc_samples": 2}
    optimizer = Optimizer([w], **options)
    train(optimizer, w, 3)
    again.data.copy_(w.data)
    other = Optimizer([again], **{**options, "seed": 5})
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    train(optimizer, w, 5)
    train(other, again, 5)
    assert torch.equal(w, again)


def test_norms_are_told_from_weights():
    model = MODELS["resnet20"].build(10, width=2)
    weights, norms = weights_and_norms(model)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)].rpartition(".")[2] for p in norms} == {"gamma", "beta", "tau"}
    assert {names[id(p)].rpartition(".")[2] for p in weights} == {"weight", "bias"}
    assert len(weights) + len(norms) == len(names)


@pytest.mark.parametrize("norm_posterior", [True, False])
def test_settings_reach_the_optimizer(norm_posterior):
    model = MODELS["resnet20"].build(10, width=2)
    values = {"lr": 0.3, "beta1": 0.8, "beta2": 0.2, "prior_precision": 3.0, "damping": 0.1}
    values |= {"data_factor": 2.0, "tau": 0.5, "warmup_steps": 7}
    settings = VOGN(**values, mc_samples=3, norm_posterior=norm_posterior)
    optimizer = settings.build(model, train_size=123, seed=9).optimizer
    assert optimizer.mc_samples == 3
    expected = {**values, "data_size": 123, "seed": 9, "step": 0, "posterior": True}
    assert optimizer.defaults == expected
    assert [group["posterior"] for group in optimizer.param_groups] == [True, norm_posterior]
    ogn = OGN(**values).build(model, train_size=123, seed=9).optimizer
    assert ogn.mc_samples == 0
    assert ogn.defaults == expected


def test_ogn_predicts_with_its_mean():
    model = nn.Linear(2, 2)
    method = OGN(lr=0.1).build(model, train_size=10, seed=0)
    loss = Loss(model, X.float(), torch.tensor([0, 1, 0]))
    method.step(loss)
    with torch.no_grad(), method.draw(1, torch.Generator()):
        drawn = loss()
    assert torch.equal(drawn, loss().detach())


@pytest.mark.parametrize(
    "name", ["resnet20", "resnet18", *(pytest.param(n, marks=pytest.mark.slow) for n in DEEP)]
)
def test_squares_of_the_networks_equal_a_loop(name):
    torch.manual_seed(0)
    model = MODELS[name].build(10, width=2, side=32).to(memory_format=torch.channels_last)
    images = torch.randn(3, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.tensor([1, 2, 3])
    shown: list[Tensor] = []
    loss = Loss(model, images, labels, seen=lambda outputs, _: shown.append(outputs))
    value = loss.per_example_backward(model, chunk_size=2)
    torch.testing.assert_close(value, loss().detach())
    torch.testing.assert_close(shown[0], shown[1])  # the outputs of all examples, in their order
    params = list(model.parameters())
    of_each = [
        torch.autograd.grad(F.cross_entropy(model(images[i, None]), labels[i, None]), params)
        for i in range(3)
    ]
    for i, p in enumerate(params):
        grads = torch.stack([of_one[i] for of_one in of_each])
        for found, expected in ((p.grad, grads.mean(0)), (p.squared_grad, grads.square().mean(0))):
            # Single precision through up to 121 layers; the scale is that of the tensor, not of its zeros.
            assert (found - expected).abs().max() <= 1e-3 * expected.abs().max() + 1e-7


def test_needs_gradients_of_single_examples():
    w = linear()

    def closure() -> Tensor:
        loss = (X @ w - Y).square().mean()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="per_example_backward"):
        Optimizer([w], **SETTINGS).step(closure)


def test_no_draw_before_the_first_step():
    optimizer = Optimizer([linear()], **SETTINGS)
    with pytest.raises(RuntimeError, match="first step"), optimizer.sampled_params(torch.Generator()):
        pass


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": -1.0},
        {"data_size": 0.0},
        {"prior_precision": -1.0},
        {"beta1": 1.0},
        {"beta2": 0.0},
        {"damping": float("nan")},
        {"data_factor": 0.0},
        {"tau": 0.0},
        {"warmup_steps": -1},
        {"mc_samples": -1},
        {"mc_samples": 1.5},
    ],
    ids=str,
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Optimizer([linear()], **{**SETTINGS, **wrong})


def test_no_prior_and_no_damping_are_refused():
    with pytest.raises(ValueError, match="damping"):
        Optimizer([{"params": [linear()], "posterior": False}], **SETTINGS)


RANK = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, sys.argv[3])
import test_vogn as t
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
found = {}
for draws in (0, 2):
    w = t.linear()
    optimizer = t.Optimizer([w], **t.SETTINGS, mc_samples=draws)
    seen = []
    for _ in range(3):
        def closure():
            seen.append(w.detach().clone())
            return t.squared_error(w, t.X[rank::2][:1], t.Y[rank::2][:1])
        optimizer.step(closure)
    found[draws] = torch.stack(seen), w.detach()
torch.save(found, f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_share_a_batch(tmp_path):
    """Gradients are averaged, noise is each rank's own, and the posterior stays the same on both."""
    here = Path(__file__).parent
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), tmp_path, here], cwd=here.parents[1])
        for rank in (0, 1)
    ]
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for draws in (0, 2):
        assert torch.equal(one[draws][1], other[draws][1])
    assert not (one[2][0][1:] == other[2][0][1:]).any()

    w = linear()
    optimizer = Optimizer([w], **SETTINGS, mc_samples=0)
    for _ in range(3):
        optimizer.step(lambda: squared_error(w, X[:2], Y[:2]))
    torch.testing.assert_close(w.detach(), one[0][1], rtol=1e-12, atol=0)
