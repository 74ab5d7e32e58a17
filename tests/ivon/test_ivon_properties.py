"""What the mathematics of the method promises, for any gradients."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from ivon import IVON, Posterior, _kernels, diagnose
from ivon._operations import SINGLE

DELTAS = st.sampled_from([0.0, 1e-6, 1e-4, 0.1, 3.0])
BETA2 = st.floats(0.0, 0.99999)


@settings(max_examples=60, deadline=None)
@given(
    delta=DELTAS,
    beta2=BETA2,
    start=st.floats(1e-3, 1e3),
    estimates=st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), min_size=1, max_size=40),
)
@example(delta=0.1, beta2=0.5, start=1.0, estimates=[math.nan] * 60)
@example(delta=0.0, beta2=0.99999, start=1.0, estimates=[math.nan] * 200)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_precision_stays_positive_for_any_hessian_estimates(dtype, delta, beta2, start, estimates):
    """NaN stands for the worst estimate, the one that halves h + delta: h - (h + delta) / (1 - beta2)."""
    hess = torch.tensor([start], dtype=dtype)
    for hhat in estimates:
        precision = hess + delta
        worst = hess - precision / (1 - beta2)
        now = worst if math.isnan(hhat) else torch.full_like(hess, hhat)
        before = precision.item()
        floor = _kernels.hess_floor(delta, dtype)
        n = _kernels.Numbers(1.0, 1.0, 0.1, 1 - beta2, delta, delta, math.inf, 0.1, floor)
        _kernels.update_hess(SINGLE, hess, now.clone(), n, times_precision=False)
        after = (hess + delta).item()
        assert after > 0
        # At most halved, up to the rounding of h itself, which is near -delta at worst; and the squares of
        # numbers below 1e-18 are zero in float32.
        if before > 1e-18:
            epsilon = torch.finfo(dtype).eps
            assert after >= 0.5 * before * (1 - 100 * epsilon) - 4 * epsilon * delta


@settings(max_examples=50, deadline=None)
@given(
    grads=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20),
    delta=DELTAS,
    beta2=BETA2,
    hess_approx=st.sampled_from(["price", "gradsq"]),
)
def test_optimizer_survives_adversarial_gradients(grads, delta, beta2, hess_approx):
    p = nn.Parameter(torch.zeros(4))
    optimizer = IVON([p], 1e-3, 100.0, 0.5, beta2=beta2, weight_decay=delta, hess_approx=hess_approx)
    optimizer.seed(0)
    for grad in grads:
        with optimizer.sampled_params(train=True):
            noise = p.detach().clone()
            # The sign of the noise makes the estimates as negative as they can be.
            p.grad = -grad * noise.sign()
        optimizer.step()
        precision = optimizer.state[p]["hess"] + delta
        if not precision.isfinite().all():
            break  # float32 has overflowed, which takes h > 1e38
        assert (precision > 0).all()
        assert p.isfinite().all()


def with_negative_hess(dtype=torch.float32):
    """After steps on a concave loss, whose second derivative is -0.05."""
    model = nn.Linear(6, 2, bias=False).to(dtype)
    optimizer = IVON(model.parameters(), 0.0, ess=100.0, hess_init=0.01, weight_decay=0.1, beta2=0.9)
    optimizer.seed(0)
    mean = model.weight.detach().clone()
    for _ in range(30):
        with optimizer.sampled_params(train=True):
            model.weight.grad = -0.05 * (model.weight.detach() - mean)
        optimizer.step()
    hess = optimizer.state[model.weight]["hess"]
    assert (hess < -0.01).any()
    return model, optimizer, hess.clone()


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("after", [0.0, 1e-6, 0.01, 0.0999])
def test_weight_decay_may_fall(dtype, after):
    """Where h is negative h + weight_decay stays; so say posterior and diagnosis before the next draw."""
    model, optimizer, hess = with_negative_hess(dtype)
    state, group = optimizer.state[model.weight], optimizer.param_groups[0]
    group["weight_decay"] = after
    expected = torch.where(hess < 0, hess + 0.1, (hess + after).clamp(min=1e-18))
    told, diagnosis = Posterior.of(model, optimizer).precision["weight"] / 100, diagnose(optimizer)
    torch.testing.assert_close(told, expected)
    assert diagnosis.total.noise_rms == pytest.approx((100 * expected).reciprocal().mean().sqrt().item())
    assert torch.equal(state["hess"], hess)  # nothing was changed by asking
    with optimizer.sampled_params(train=True):
        assert model.weight.isfinite().all()
        torch.testing.assert_close(state["hess"] + after, expected)
        model.weight.sum().backward()
    again = state["hess"].clone()
    with optimizer.sampled_params():  # once is enough
        assert torch.equal(state["hess"], again)
    optimizer.step()
    assert model.weight.isfinite().all() and (state["hess"] + after > 0).all()


@pytest.mark.usefixtures("path")
def test_weight_decay_may_fall_between_draw_and_step():
    model, optimizer, hess = with_negative_hess()
    with optimizer.sampled_params(train=True):
        model.weight.grad = torch.zeros_like(model.weight)
    optimizer.param_groups[0]["weight_decay"] = 0.01
    optimizer.step()
    # The estimate is 0, and h falls by a tenth at most.
    assert (optimizer.state[model.weight]["hess"][hess < 0] + 0.01 > 0.9 * (hess[hess < 0] + 0.1)).all()


@pytest.mark.parametrize("when", ["before", "in the file", "after", "old file"])
def test_weight_decay_may_fall_at_a_checkpoint(when):
    model, optimizer, hess = with_negative_hess()
    if when == "before":  # by a scheduler, whose step is the last of an iteration
        optimizer.param_groups[0]["weight_decay"] = 0.01
    saved = optimizer.state_dict()
    if when == "in the file":
        saved["param_groups"][0]["weight_decay"] = 0.01
    if when == "old file":
        del saved["param_groups"][0]["hess_weight_decay"]
    other = IVON(model.parameters(), lr=0.1, ess=1.0)
    other.load_state_dict(saved)
    if when in ("after", "old file"):
        other.param_groups[0]["weight_decay"] = 0.01
    with other.sampled_params():
        assert model.weight.isfinite().all()
    found = other.state[model.weight]["hess"] + 0.01
    torch.testing.assert_close(found[hess < 0], hess[hess < 0] + 0.1)


@pytest.mark.usefixtures("path")
def test_a_schedule_of_weight_decay():
    """A network with noisy estimates; the loss was NaN."""
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(256, 20, generator=rng), torch.randint(3, (256,), generator=rng)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = IVON(model.parameters(), lr=0.1, ess=2560.0, hess_init=1e-2, beta2=0.98, weight_decay=1e-2)
    optimizer.seed(0)
    negative = 0
    for step in range(100):
        optimizer.param_groups[0]["weight_decay"] = 0.5e-2 * (1 + math.cos(math.pi * step / 100))
        chosen = torch.randint(256, (32,), generator=rng)
        with optimizer.sampled_params(train=True):
            loss = nn.functional.cross_entropy(model(x[chosen]), y[chosen])
            loss.backward()
        optimizer.step()
        assert loss.isfinite()
        negative += sum(int((state["hess"] < 0).sum()) for state in optimizer.state.values())
    assert negative > 0


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=2, max_size=5), seed=st.integers(0, 1000))
def test_splitting_a_batch_changes_nothing(sizes, seed):
    """One draw for the whole batch, or the same noise for weighted micro-batches of any sizes."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(sizes), 3, generator=rng, dtype=torch.float64)
    y = torch.randn(sum(sizes), generator=rng, dtype=torch.float64)
    results = []
    for parts in ([sum(sizes)], sizes):
        p = nn.Parameter(torch.ones(3, dtype=torch.float64))
        optimizer = IVON([p], 0.1, 20.0, beta2=0.9)
        for step in range(3):
            for xb, yb in zip(x.split(parts), y.split(parts), strict=True):
                noise = torch.Generator().manual_seed(step)
                with optimizer.sampled_params(train=True, generator=noise, weight=len(xb)):
                    optimizer.zero_grad()
                    ((xb @ p - yb) ** 2).mean().backward()
            optimizer.step()
        results.append((p.detach(), optimizer.state[p]["hess"]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


def one_step_estimate(optimizer, p, gradient):
    """The Hessian estimate of one step, read off the change of h at a tiny rate, in float64."""
    hess = torch.full_like(p.detach(), optimizer.param_groups[0]["hess_init"])
    with optimizer.sampled_params(train=True):
        p.grad = gradient(p.detach())
    optimizer.step()
    return hess + (optimizer.state[p]["hess"] - hess) / (1 - optimizer.param_groups[0]["beta2"])


COPIES = 40_000


def test_stein_identity_on_a_quadratic():
    """E[hhat] is the diagonal of the Hessian A, whatever its other entries and signs."""
    a = torch.tensor([[2.0, 1.5, 0.0], [1.5, 0.5, -1.0], [0.0, -1.0, -0.7]], dtype=torch.float64)
    p = nn.Parameter(torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64).repeat(COPIES, 1))
    optimizer = IVON([p], 0.1, 50.0, hess_init=2.0, beta2=1 - 1e-7)
    optimizer.seed(0)
    hhat = one_step_estimate(optimizer, p, lambda theta: theta @ a)
    error = hhat.std(dim=0) / COPIES**0.5
    assert (error < 0.15).all()  # so that the next line can fail
    assert ((hhat.mean(dim=0) - a.diag()).abs() < 4 * error).all()


def test_stein_identity_at_a_kink():
    """For relu(theta - c) the second derivative is a delta function: E[hhat] = N(c; m, sigma^2)."""
    sigma, c, m = 0.5, 0.4, 0.1
    p = nn.Parameter(torch.full((COPIES,), m, dtype=torch.float64))
    optimizer = IVON([p], 0.1, 1 / (sigma**2 * 1.5), hess_init=1.0, weight_decay=0.5, beta2=1 - 1e-7)
    optimizer.seed(0)
    hhat = one_step_estimate(optimizer, p, lambda theta: (theta > c).double())
    density = math.exp(-0.5 * ((c - m) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    error = hhat.std().item() / COPIES**0.5
    assert error < 0.02
    assert abs(hhat.mean().item() - density) < 4 * error


def test_finds_the_mean_field_posterior_of_bayesian_linear_regression():
    """Unit noise, prior N(0, 1 / (N delta)): m is the exact posterior mean, the variances are those of the
    best factorised Gaussian, 1 / diag(X'X + N delta).
    """
    rng = torch.Generator().manual_seed(0)
    n, delta = 40, 0.1
    scales = torch.tensor([0.5, 1.0, 1.5, 2.0, 3.0], dtype=torch.float64)
    x = torch.randn(n, 5, generator=rng, dtype=torch.float64) * scales
    x[:, 1] += 0.5 * x[:, 0]  # correlated columns
    y = x @ torch.ones(5, dtype=torch.float64) + torch.randn(n, generator=rng, dtype=torch.float64)
    gram = x.T @ x
    precision = gram + n * delta * torch.eye(5, dtype=torch.float64)

    p = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    optimizer = IVON([p], 0.05, ess=n, hess_init=1.0, beta2=0.999, weight_decay=delta, rescale_lr=False)
    optimizer.seed(0)
    steps = 2000
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        optimizer.param_groups[0]["beta2"] = 1 - max(1e-2 * (1 - step / steps) ** 2, 5e-4)
        with optimizer.sampled_params(train=True):
            p.grad = (gram @ p.detach() - x.T @ y) / n
        optimizer.step()
    sigma = (n * (optimizer.state[p]["hess"] + delta)) ** -0.5
    expected = torch.diag(precision) ** -0.5
    # The estimate of h averages over about 1,000 steps with a relative noise of a few: 5 percent or so of h.
    torch.testing.assert_close(sigma, expected, rtol=0.08, atol=0)
    assert ((p.detach() - torch.linalg.solve(precision, x.T @ y)).abs() < 0.2 * expected).all()
