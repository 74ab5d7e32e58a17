"""The optimizer against Algorithm 1 written out (ivon/reference.py), in float64 and on a nonlinear loss."""

import math

import pytest
import torch

from ivon import IVON, reference

STEPS = 50
CASES = {
    "plain": {},
    "clipped": {"clip_radius": 0.1},
    "gradsq": {"hess_approx": "gradsq"},
    "not debiased": {"debias": False},
    "not rescaled": {"rescale_lr": False},
    "four draws": {"mc_samples": 4},
    "no decay": {"weight_decay": 0.0},
    "no momentum": {"beta1": 0.0},
    "hasty hessian": {"beta2": 0.5},
}


def loss(theta):
    return (torch.cos(2 * theta) + theta**2).sum() + torch.tanh(theta.sum())


def gradient(theta):
    return torch.func.grad(loss)(theta)


def reference_settings(options):
    return reference.Settings(
        lamda=options["ess"],
        h0=options["hess_init"],
        beta1=options.get("beta1", 0.9),
        beta2=options["beta2"],
        delta=options["weight_decay"],
        xi=options.get("clip_radius", math.inf),
        estimator=options.get("hess_approx", "price"),
        debias=options.get("debias", True),
        rescale=options.get("rescale_lr", True),
    )


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
@pytest.mark.parametrize("case", CASES)
def test_equals_algorithm_1(case, weighted, given_noise):
    options = {"ess": 40.0, "hess_init": 0.3, "beta2": 0.95, "weight_decay": 0.01, **CASES[case]}
    draws = options.get("mc_samples", 1)
    rng = torch.Generator().manual_seed(1)
    eps = torch.randn(STEPS, draws, 5, generator=rng, dtype=torch.float64)
    start = torch.randn(5, generator=rng, dtype=torch.float64)
    weights = [3.0, 1.0, 2.5, 0.3][:draws] if weighted else [1.0] * draws
    given_noise([e] for step in eps for e in step)

    p = torch.nn.Parameter(start.clone())
    optimizer = IVON([p], lr=0.1, **options)
    s = reference_settings(options)
    state = reference.init(start, s)
    for t in range(STEPS):
        for k in range(draws):
            with optimizer.sampled_params(train=True, weight=weights[k]):
                optimizer.zero_grad()
                loss(p).backward()
        optimizer.step()
        state = reference.step(state, [gradient] * draws, list(eps[t]), s, alpha=0.1, weights=weights)
        # Both are float64 and differ in the order of operations only.
        torch.testing.assert_close(p.detach(), state.m, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(optimizer.state[p]["hess"], state.h, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(optimizer.state[p]["momentum"], state.g, rtol=1e-9, atol=1e-10)


def test_reference_spelled_out_for_one_number():
    """One step by hand: m = 1, h = 3, lambda = 4, delta = 1, so sigma = 1/4; eps = 2, gradient 5."""
    s = reference.Settings(lamda=4.0, h0=3.0, beta1=0.5, beta2=0.5, delta=1.0)
    m = torch.tensor([1.0], dtype=torch.float64)
    state = reference.step(
        reference.init(m, s), [lambda theta: 5 + 0 * theta], [torch.tensor([2.0])], s, alpha=0.1
    )
    hhat = 5 * 0.5 / (1 / 16)  # 40
    h = 0.5 * 3 + 0.5 * hhat + 0.5 * 0.25 * (3 - hhat) ** 2 / 4
    assert state.h.item() == pytest.approx(h)
    assert state.g.item() == pytest.approx(2.5)
    assert state.m.item() == pytest.approx(1 - 0.1 * 4 * (5 + 1) / (h + 1))
    assert reference.sigma(state, s).item() == pytest.approx((4 * (h + 1)) ** -0.5)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("kind", ["channels_last", "transposed", "scalar", "empty"])
def test_memory_layout_does_not_matter(kind, given_noise):
    """The step of an oddly laid out parameter is that of its contiguous copy."""
    odd = {
        "channels_last": torch.randn(3, 4, 2, 2).to(memory_format=torch.channels_last),
        "transposed": torch.randn(4, 3).t(),
        "scalar": torch.tensor(0.7),
        "empty": torch.zeros(0, 3),
    }[kind]
    eps, results = torch.randn(odd.shape), []
    for start in (odd, odd.clone(memory_format=torch.contiguous_format)):
        given_noise([[torch.empty_like(start).copy_(eps)]] * 3)
        p = torch.nn.Parameter(start.clone())
        optimizer = IVON([p], lr=0.1, ess=10, beta2=0.9)
        for _ in range(3):
            with optimizer.sampled_params(train=True):
                loss(p).backward()
            optimizer.step()
        assert p.stride() == start.stride()
        assert optimizer.state[p]["hess"].stride() == start.stride()
        results.append(p.detach())
    torch.testing.assert_close(results[0], results[1])


def test_own_noise_has_the_strides_of_the_parameter_and_the_posterior_scale():
    p = torch.nn.Parameter(torch.zeros(32, 16, 5, 5).to(memory_format=torch.channels_last))
    optimizer = IVON([p], lr=0.1, ess=100.0, hess_init=0.2, weight_decay=0.05)
    with optimizer.sampled_params():
        draw = p.detach().clone()
    # 12,800 draws: the standard error of their standard deviation is 0.6 percent, of their mean 0.9 percent.
    assert draw.std().item() == pytest.approx((100 * 0.25) ** -0.5, rel=0.03)
    assert abs(draw.mean().item()) < 0.05 * (100 * 0.25) ** -0.5
