"""Predictive mean and variance of real numbers: closed forms, and the law of total variance."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal

import ivon
from ivon import Mixture, Posterior

X = torch.linspace(-2, 2, 20).view(5, 4)


class Heteroscedastic(nn.Module):
    """A mean and a number for its noise, as the pair or object that `join` makes of them."""

    def __init__(self, join: Any, outputs: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2 * outputs))
        self.join = join

    def forward(self, x: Tensor) -> Any:
        return self.join(*self.body(x).chunk(2, -1))


def log_variance(mean: Tensor, second: Tensor) -> Any:
    return mean, second


def variance(mean: Tensor, second: Tensor) -> Any:
    return [mean, second.exp()]


def normal(mean: Tensor, second: Tensor) -> Any:
    return Normal(mean, (second / 2).exp())


KINDS = [(log_variance, "log_variance"), (variance, "variance"), (normal, None)]


def with_posterior(model: nn.Module, ess: float = 20.0) -> Posterior:
    return Posterior.of(model, ivon.IVON(model.parameters(), lr=0.1, ess=ess))


def linear_posterior(x: Tensor, y: Tensor, noise: float, prior: float) -> tuple[Tensor, Tensor]:
    """Mean and precisions of the weights of y = x w + noise, uncorrelated for orthogonal columns of x."""
    precision = x.square().sum(0) / noise + prior
    return (x.T @ y) / noise / precision, precision


def test_bayesian_linear_regression():
    """mean x^T m, epistemic sum_j x_j^2 / precision_j, and the noise beside it (Bishop 2006, Eq. 3.58)."""
    rng = torch.Generator().manual_seed(0)
    x = torch.linalg.qr(torch.randn(30, 4, generator=rng, dtype=torch.float64)).Q * 3
    y = x @ torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    noise = 0.25
    y = y + noise**0.5 * torch.randn(30, generator=rng, dtype=torch.float64)
    mean, precision = linear_posterior(x, y, noise, prior=0.1)
    posterior = Posterior(
        mean={"weight": mean[None]}, precision={"weight": precision[None]}, prior_precision={"weight": 0.1}
    )
    model = nn.Linear(4, 1, bias=False).double()
    new, draws = X.double(), 1_000
    found = ivon.predict_regression(model, new, draws, posterior=posterior, noise_variance=noise)
    exact = (new.square() / precision).sum(1, keepdim=True)
    # Standard errors of a mean and of a variance of normal numbers; 5 of them.
    assert ((found.mean[:, 0] - new @ mean).abs() < 5 * (exact[:, 0] / draws).sqrt()).all()
    torch.testing.assert_close(found.epistemic, exact, rtol=5 * math.sqrt(2 / draws), atol=0.0)
    torch.testing.assert_close(found.variance, exact + noise, rtol=5 * math.sqrt(2 / draws), atol=0.0)
    assert torch.equal(found.aleatoric, torch.full_like(exact, noise))


def test_a_training_with_ivon_ends_at_the_closed_form():
    """The mean field over two orthogonal inputs is exact, and what the optimizer itself has learned."""
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64).repeat(10, 1)
    y = x @ torch.tensor([1.0, -0.5], dtype=torch.float64)
    noise, delta = 0.5, 0.01
    model = nn.Linear(2, 1, bias=False).double()
    optimizer = ivon.IVON(
        model.parameters(), lr=0.2, ess=len(x), hess_init=1.0, beta2=0.99, weight_decay=delta
    )
    optimizer.seed(0)
    for step in range(600):
        optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / 600)
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            ((model(x)[:, 0] - y).square().mean() / (2 * noise)).backward()
        optimizer.step()
    _, precision = linear_posterior(x, y, noise, prior=delta * len(x))
    found = ivon.predict_regression(model, x[:2], 400, posterior=optimizer, noise_variance=noise)
    exact = (x[:2].square() / precision).sum(1, keepdim=True)
    # The Hessian of the loss is known to some 20 % from so few steps, draws add 7 %.
    torch.testing.assert_close(found.epistemic, exact, rtol=0.3, atol=0.0)
    torch.testing.assert_close(found.mean[:, 0], y[:2], atol=0.1, rtol=0.0)


@settings(max_examples=25, deadline=None)
@given(
    draws=st.sampled_from([1, 2, 7, 40]), kind=st.sampled_from(KINDS), ess=st.floats(1, 1e4),
    weights=st.none() | st.lists(st.floats(0.1, 10), min_size=2, max_size=2), outputs=st.sampled_from([1, 3]),
)  # fmt: skip
def test_total_variance_is_that_of_the_mixture_of_the_draws(draws, kind, ess, weights, outputs):
    """E[y^2] - E[y]^2 over draws of y, each of mean m and variance v, so that E[y^2] = m^2 + v."""
    join, second = kind
    model = Heteroscedastic(join, outputs).double()
    posterior: Any = with_posterior(model, ess)
    if weights is not None:
        posterior = Mixture(
            [posterior, with_posterior(Heteroscedastic(join, outputs).double(), 2 * ess)], weights
        )
    found = ivon.predict_regression(model, X.double(), draws, posterior=posterior, second=second)
    parts = []
    for k in range(draws):
        with posterior.sampled(model, k), torch.no_grad():
            parts.append(torch.stack(model.body(X.double()).chunk(2, -1)))
    means, logs = torch.stack(parts, 1)
    second_moment = (means.square() + logs.exp()).mean(0)
    torch.testing.assert_close(found.mean, means.mean(0))
    torch.testing.assert_close(found.aleatoric, logs.exp().mean(0))
    torch.testing.assert_close(found.variance, second_moment - means.mean(0).square())
    assert found.mean.shape == found.epistemic.shape == (5, outputs)


@pytest.mark.parametrize(("join", "second"), KINDS)
def test_no_draws_is_the_mean_which_is_sure_of_itself(join, second):
    model = Heteroscedastic(join)
    found = ivon.predict_regression(model, X, 0, posterior=with_posterior(model), second=second)
    mean, log = model.body(X).chunk(2, -1)
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.aleatoric, log.exp())
    assert not found.epistemic.any()


def test_means_of_a_mixture_differ_and_this_is_epistemic():
    members = []
    for value in (1.0, 5.0):
        model = nn.Linear(4, 1, bias=False)
        nn.init.constant_(model.weight, value)
        members.append(with_posterior(model))
    mixture = Mixture(members, [3.0, 1.0])
    found = ivon.predict_regression(model, X, 0, posterior=mixture)
    sums = X.sum(1, keepdim=True)
    torch.testing.assert_close(found.mean, 2 * sums)
    torch.testing.assert_close(found.epistemic, 3 * sums.square())  # 3/4 1^2 + 1/4 3^2 times the sum


@pytest.mark.parametrize("draws", [0, 3, 40])
def test_posterior_optimizer_and_wrapper_are_the_same(draws):
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 1))
    optimizer = ivon.IVON(model.parameters(), lr=0.1, ess=20.0)
    posterior = Posterior.of(model, optimizer)
    found = [
        ivon.predict_regression(model, X, draws, posterior=p)
        for p in (posterior, optimizer, SimpleNamespace(optimizer=optimizer), Mixture([posterior]))
    ]
    for other in found[1:]:
        assert torch.equal(other.mean, found[0].mean) and torch.equal(other.epistemic, found[0].epistemic)
    assert model.training
    assert not found[0].mean.requires_grad


def test_noise_that_nobody_has_told_is_not_taken_for_none():
    model = nn.Linear(4, 1)
    posterior = with_posterior(model)
    found = ivon.predict_regression(model, X, 20, posterior=posterior)
    assert found.aleatoric is None
    with pytest.raises(ValueError, match="needs its noise, which is not known: give noise_variance"):
        _ = found.variance
    without = ivon.predict_regression(model, X, 20, posterior=posterior, noise_variance=0.0)
    assert torch.equal(without.variance, found.epistemic)


def test_each_target_may_have_its_noise():
    model = nn.Linear(4, 2)
    noise = torch.tensor([0.1, 2.0])
    found = ivon.predict_regression(model, X, 20, posterior=with_posterior(model), noise_variance=noise)
    torch.testing.assert_close(found.variance, found.epistemic + noise)


def test_small_variances_beside_large_means_are_kept():
    """In float32 the difference of E[y^2] = 1e10 and E[y]^2 would be a multiple of 1,000."""
    model = nn.Linear(4, 1)
    nn.init.constant_(model.bias, 1e5)
    posterior = with_posterior(model)
    large = ivon.predict_regression(model, X, 64, posterior=posterior).epistemic
    exact = ivon.predict_regression(model.double(), X.double(), 64, posterior=posterior).epistemic
    # Outputs around 1e5 are rounded to 0.008; their standard deviation is 0.2 at least.
    torch.testing.assert_close(large.double(), exact, rtol=0.02, atol=0.0)


@pytest.mark.parametrize("draws", [0, 3, 40])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_outputs_of_any_shape_and_dtype(dtype, draws):
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)).to(dtype)
    found = ivon.predict_regression(
        model, X.to(dtype), draws, posterior=with_posterior(model), noise_variance=0.5
    )
    assert found.mean.shape == found.variance.shape == (5,)
    assert found.mean.dtype == found.variance.dtype == torch.promote_types(dtype, torch.float32)


def test_one_logit_has_the_variance_of_a_coin():
    """As a Bernoulli distribution: p (1 - p) with the averaged p is the total of both parts."""

    class Coin(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return Bernoulli(logits=super().forward(x))

    model = Coin(4, 1)
    found = ivon.predict_regression(model, X, 40, posterior=with_posterior(model))
    torch.testing.assert_close(found.variance, found.mean * (1 - found.mean))
    assert (found.epistemic > 0).all()


def test_outputs_of_hugging_face_are_their_logits():
    class Model(nn.Linear):
        def forward(self, features: Tensor) -> Any:
            return SimpleNamespace(logits=super().forward(features))

    model = Model(4, 1)
    got = ivon.predict_regression(model, {"features": X}, 0, posterior=with_posterior(model))
    torch.testing.assert_close(got.mean, model(X).logits)


def refused(words: str, model: nn.Module, draws: int = 20, **options: Any) -> None:
    posterior = options.pop("posterior", None) or with_posterior(model)
    with pytest.raises(ValueError, match=words) as refusal:
        ivon.predict_regression(model, X, draws, posterior=posterior, **options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("draws", [0, 3, 40])
def test_what_makes_no_sense_is_refused(draws):
    linear, pair, distribution = nn.Linear(4, 1), Heteroscedastic(log_variance), Heteroscedastic(normal)
    refused("second must be given, as the model returns a pair: one of variance, log_variance", pair, draws)
    refused("second must be one of variance, log_variance; got 'std'", pair, draws, second="std")
    refused(r"model must return a pair \(mean, variance\), got Tensor", linear, draws, second="variance")
    refused(
        r"got -[\d.]+; logarithms of variances are second=\"log_variance\"", pair, draws, second="variance"
    )
    refused("noise_variance is for models without", pair, draws, second="variance", noise_variance=1.0)
    refused("noise_variance is not for a model that returns a distr", distribution, draws, noise_variance=1.0)
    refused("second is not for a model that returns a distribution", distribution, draws, second="variance")
    for wrong in (-0.1, math.nan, math.inf, torch.tensor([1.0, -1.0])):
        refused("noise_variance must be finite and >= 0, got", linear, draws, noise_variance=wrong)
    refused(
        r"noise_variance must fit outputs of shape \(5, 1\), got shape \(5,\)",
        linear,
        draws,
        noise_variance=torch.ones(5),
    )
    column = Heteroscedastic(lambda mean, log: (mean, log[:, 0]))
    refused(r"must be of one shape, got \(5, 1\) and \(5,\)", column, draws, second="log_variance")
    refused(
        "model must return a tensor, a pair of tensors or a distribution, got str",
        Heteroscedastic(lambda *_: "no"),
        draws,
    )
    refused(
        r"model must return real numbers, got torch\.int64", Heteroscedastic(lambda m, _: m.long()), draws
    )


def test_what_predict_refuses_is_refused():
    model = nn.Linear(4, 1)
    refused("n_samples must be an integer >= 0", model, -1)
    refused("'weight' has shape", nn.Linear(4, 2), posterior=with_posterior(model))
