"""Posterior-averaged prediction in one line."""

import math

import pytest
import torch
from torch import nn

import ivon

X = torch.linspace(-2, 2, 20).reshape(5, 4)


def make(dtype=torch.float32):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).to(dtype)
    return model, ivon.IVON(model.parameters(), lr=0.1, ess=20.0)


def test_is_the_mean_of_the_softmax_over_draws():
    model, optimizer = make()
    got = ivon.predict(model, optimizer, X, draws=7, generator=torch.Generator().manual_seed(1))
    model.eval()
    probs, generator = [], torch.Generator().manual_seed(1)
    for _ in range(7):
        with torch.no_grad(), optimizer.sampled_params(generator=generator):
            probs.append(model(X).softmax(-1))
    torch.testing.assert_close(got.exp(), torch.stack(probs).mean(0))
    assert got.shape == (5, 3)


def test_no_draws_is_the_prediction_of_the_mean():
    model, optimizer = make()
    got = ivon.predict(model, optimizer, X, draws=0)
    torch.testing.assert_close(got, model.eval()(X).log_softmax(-1))


@pytest.mark.parametrize("draws", [0, 1, 64])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_is_a_distribution_without_autograd(dtype, draws):
    model, optimizer = make(dtype)
    log_probs = ivon.predict(model, optimizer, X.to(dtype), draws=draws)
    assert log_probs.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert not log_probs.requires_grad
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(5, dtype=log_probs.dtype))


def test_leaves_weights_buffers_and_modes_as_they_were():
    model, optimizer = make()
    model.train()
    model[1].eval()  # frozen batch norm in a model that trains
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    ivon.predict(model, optimizer, X, draws=3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(RuntimeError):
        ivon.predict(model, optimizer, X[:, :2], draws=3)
    assert [module.training for module in model.modules()] == modes


def test_probabilities_too_small_for_float32_survive_the_average():
    p = nn.Parameter(torch.tensor([0.0, 200.0]))  # exp(-200) is 0 in float32
    optimizer = ivon.IVON([p], lr=0.1, ess=1e12)
    log_probs = ivon.predict(lambda x: x * p, optimizer, torch.ones(1, 2), draws=10)
    assert log_probs[0, 0].item() == pytest.approx(-200, rel=1e-3)


def test_average_of_two_opposite_answers_is_undecided():
    """A wide posterior over the slope of a logistic model: confident draws, undecided average."""
    p = nn.Parameter(torch.zeros(1))
    optimizer = ivon.IVON([p], lr=0.1, ess=1e-4)
    log_probs = ivon.predict(
        lambda x: torch.cat([x * p, -x * p], -1), optimizer, torch.ones(1, 1), draws=2000
    )
    # 2,000 coin flips: standard error 0.011.
    assert log_probs[0, 0].exp().item() == pytest.approx(0.5, abs=0.05)
    point = ivon.predict(lambda x: torch.cat([x * p, -x * p], -1), optimizer, torch.ones(1, 1), draws=0)
    assert point[0, 0].item() == pytest.approx(math.log(0.5))


def test_negative_number_of_draws_is_refused():
    model, optimizer = make()
    with pytest.raises(ValueError, match="draws must be >= 0"):
        ivon.predict(model, optimizer, X, draws=-1)
