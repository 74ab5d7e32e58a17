"""Bayes by Backprop against autograd, torch's KL, and the exact posterior of a linear regression."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.func import functional_call

from baselines.bbb import MeanField, layer_parameters
from baselines.draws import shaped
from baselines.method import Loss
from baselines.settings import BBB
from experiments.models import MODELS


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(27, 4)).double()
    return model.to(memory_format=torch.channels_last)


def data() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(16, 1, 5, 5, dtype=torch.float64), torch.randint(4, (16,))


def mean_field(model: nn.Module, reduction: str = "sum") -> MeanField:
    return MeanField(model.parameters(), prior_precision=3.0, std_init=0.2, kl_reduction=reduction)


def kl_by_torch(means, stds, reduction: str, precision: float) -> torch.Tensor:
    terms = [
        kl_divergence(Normal(mean, std), Normal(torch.zeros_like(mean), precision**-0.5))
        for mean, std in zip(means, stds, strict=True)
    ]
    return sum(term.sum() if reduction == "sum" else term.mean() for term in terms)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_gradients_are_those_of_autograd_through_the_draw(reduction):
    """The same objective as a function of mu and rho, with torch's KL, left to autograd."""
    model, (images, labels), kl_weight = network(), data(), 0.05
    q = mean_field(model, reduction)
    with torch.no_grad():
        q.rho.add_(torch.randn_like(q.rho))  # another standard deviation for every weight

    means = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    rho = q.rho.detach().clone().requires_grad_()
    stds = shaped(F.softplus(rho), q.params)
    kl = kl_by_torch(means.values(), stds, reduction, precision=3.0)
    torch.testing.assert_close(q.kl(), kl.detach(), rtol=1e-12, atol=0)

    with q.sampled(torch.Generator().manual_seed(0)) as noise:
        F.cross_entropy(model(images), labels).backward()
    q.chain_rule(noise, kl_weight)

    draws = shaped(noise, q.params)
    thetas = {name: mean + s * e for (name, mean), s, e in zip(means.items(), stds, draws, strict=True)}
    loss = F.cross_entropy(functional_call(model, thetas, (images,)), labels) + kl_weight * kl
    *by_mean, by_rho = torch.autograd.grad(loss, [*means.values(), rho])
    # Double precision: only the order of operations differs.
    torch.testing.assert_close(q.rho.grad, by_rho, rtol=1e-10, atol=1e-14)
    for param, expected in zip(model.parameters(), by_mean, strict=True):
        torch.testing.assert_close(param.grad, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("too_much", [0.9, 1.0, 1.1])
def test_descends_to_the_best_gaussian_of_a_linear_regression(too_much):
    """There the optimum is known: the exact posterior's mean, and the inverse diagonal of its precision.

    One draw each for many copies of the weights gives the expected gradient. It vanishes at the optimum and
    leads back to it from standard deviations 10% off and means that are off by 10% of these.
    """
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    inputs[:, 1] += inputs[:, 0]  # correlated: the posterior's own variances would be other ones
    targets = inputs @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    targets += 0.5 * torch.randn(40, generator=generator, dtype=torch.float64)
    noise_precision, prior_precision, copies = 4.0, 2.0, 40_000
    precision = noise_precision * inputs.T @ inputs + prior_precision * torch.eye(3, dtype=torch.float64)
    mean = noise_precision * torch.linalg.solve(precision, inputs.T @ targets)
    std = precision.diagonal().rsqrt()

    start = (mean + (too_much - 1) * std)[:, None].expand(3, copies)
    weights = start.clone().requires_grad_()
    q = MeanField([weights], prior_precision=prior_precision, std_init=1.0)
    with torch.no_grad():
        q.rho.copy_((too_much * std).expm1().log().repeat_interleave(copies))
    with q.sampled(generator) as noise:
        residuals = targets[:, None] - inputs @ weights
        (0.5 * noise_precision * residuals.square().mean(0)).sum().backward()
    q.chain_rule(noise, kl_weight=1 / len(inputs))
    error = 5 * weights.grad.std(1) / copies**0.5  # five standard errors
    quadratic = precision @ ((too_much - 1) * std) / len(inputs)  # the exact gradient of the mean
    assert ((weights.grad.mean(1) - quadratic).abs() < error).all()
    by_rho = q.rho.grad.view(3, copies)
    mean_by_rho, error = by_rho.mean(1), 5 * by_rho.std(1) / copies**0.5
    if too_much == 1.0:
        assert (mean_by_rho.abs() < error).all()
    else:
        assert ((mean_by_rho if too_much > 1 else -mean_by_rho) > error).all()


def test_draws_have_the_posteriors_moments():
    weights = torch.tensor([1.0, -2.0, 0.0], requires_grad=True)
    q = MeanField([weights], prior_precision=1.0, std_init=0.5)
    with torch.no_grad():
        q.rho.copy_(torch.tensor([0.5, -1.0, 2.0]))
    generator, draws = torch.Generator().manual_seed(0), []
    for _ in range(4000):
        with q.sampled(generator):
            draws.append(weights.detach().clone())
    seen, std = torch.stack(draws), F.softplus(q.rho.detach())
    error = std / len(draws) ** 0.5
    assert ((seen.mean(0) - weights.detach()).abs() < 5 * error).all()  # five standard errors
    assert ((seen.std(0) - std).abs() < 5 * error / 2**0.5).all()


def test_parameter_outside_the_loss_keeps_its_kl():
    used, unused = torch.ones(2, requires_grad=True), torch.full((2,), 3.0, requires_grad=True)
    q = MeanField([used, unused], prior_precision=2.0, std_init=0.1)
    with q.sampled(torch.Generator().manual_seed(0)) as noise:
        used.sum().backward()
    q.chain_rule(noise, kl_weight=0.5)
    torch.testing.assert_close(unused.grad, torch.full((2,), 3.0))  # kl_weight * precision * mu


def test_every_step_has_a_draw_of_its_own():
    model, (images, labels) = network(), data()
    method = BBB(lr=0.1, std_init=0.1).build(model, train_size=16, seed=0)
    method.optimizer.param_groups[0]["lr"] = 0.0
    loss = Loss(model, images, labels)
    assert len({method.step(loss).item() for _ in range(4)}) == 4


def test_norms_stay_deterministic():
    """Their weights move, but no draw does."""
    model = MODELS["resnet20"].build(10, in_channels=1, width=2, side=8)
    method = BBB(lr=0.01).build(model, train_size=100, seed=0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    norms = {name for name in before if name.rpartition(".")[2] in ("gamma", "beta", "tau")}
    assert {id(p) for p in layer_parameters(model)} == {
        id(p) for name, p in model.named_parameters() if name not in norms
    }
    with method.draw(1, torch.Generator().manual_seed(0)):
        drawn = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert drawn == set(before) - norms
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    method.step(Loss(model, images, torch.arange(8)))
    assert not any(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_settings_arrive():
    model = nn.Linear(300, 200)
    start = model.weight.detach().clone()
    method = BBB(lr=0.1).build(model, train_size=400, seed=0)
    q = method.posterior
    assert q.prior_precision == pytest.approx(1e-4 * 400)
    torch.testing.assert_close(q.std, torch.full_like(q.std, 0.0067082), rtol=1e-5, atol=0)
    assert torch.equal(model.weight, start)
    assert all(group["weight_decay"] == 0 for group in method.optimizer.param_groups)

    values = {"std_init": 0.01, "mu_init_std": 0.1, "rho_jitter": 0.2, "adamw_decay": 0.01}
    settings = BBB(lr=0.1, beta1=0.8, beta2=0.95, eps=1e-6, temperature=0.5, **values)
    method = settings.build(model, train_size=400, seed=0)
    rho = method.posterior.rho.detach()
    # Statistics of 60,000 numbers: five standard errors are 1.5% of a standard deviation.
    assert model.weight.std().item() == pytest.approx(0.1, rel=0.015)
    assert rho.std().item() == pytest.approx(0.2, rel=0.015)
    assert F.softplus(rho.mean()).item() == pytest.approx(0.01, rel=0.01)
    assert method._kl_weight == 0.5 / 400
    given = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.01}
    assert given.items() <= method.optimizer.defaults.items()


@pytest.mark.parametrize("wrong", [{"prior_precision": 0.0}, {"std_init": 0.0}, {"params": []}])
def test_impossible_posteriors_are_refused(wrong):
    good = {"params": [torch.zeros(1, requires_grad=True)], "prior_precision": 1.0, "std_init": 0.1}
    with pytest.raises(ValueError, match="MeanField needs"):
        MeanField(**{**good, **wrong})


def test_unknown_reduction_and_network_without_layers_are_refused():
    with pytest.raises(ValueError, match="kl_reduction must be 'sum' or 'mean', got 'total'"):
        mean_field(network(), "total")
    with pytest.raises(ValueError, match="BatchNorm1d has no trainable convolutions or linear layers"):
        layer_parameters(nn.BatchNorm1d(3))
