"""Mixtures of posteriors: whose turn it is, and that draws and predictions are those of the members."""

import math

import pytest
import torch
from torch import nn

import ivon
from ivon.mixture import Mixture
from ivon.posterior import Posterior

X = torch.linspace(-2, 2, 20).view(5, 4)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def members(count: int) -> list[Posterior]:
    found: list[Posterior] = []
    for i in range(count):
        torch.manual_seed(i)
        model = network()
        found.append(Posterior.of(model, ivon.IVON(model.parameters(), lr=0.1, ess=20.0)))
    return found


def test_equal_members_take_turns():
    mixture = Mixture(members(5))
    assert [mixture.member_of(k) for k in range(64)] == [k % 5 for k in range(64)]
    assert mixture.weights == (0.2,) * 5


@pytest.mark.parametrize(
    "weights", [[3, 1], [0.5, 0.3, 0.2], [1, 1, 1, 7.5, 1e-3], [1 / 3, 1 / 3, 1 / 3]], ids=str
)
def test_every_member_has_its_share_of_any_number_of_draws(weights):
    mixture = Mixture(members(len(weights)), weights)
    assert sum(mixture.weights) == pytest.approx(1)
    counts = [0] * len(weights)
    for k in range(500):
        counts[mixture.member_of(k)] += 1
        for count, weight in zip(counts, weights, strict=True):
            share = (k + 1) * weight / sum(weights)
            assert math.floor(share - 1e-9) <= count <= math.ceil(share + 1e-9)  # the shares are rounded here


def test_a_draw_is_one_of_a_member_whatever_was_asked_before():
    mixture = Mixture(members(3), [0.5, 0.3, 0.2])
    later = mixture.draw(9, seed=4)
    again = Mixture(members(3), [0.5, 0.3, 0.2])
    for draws in (mixture, again):
        draw = draws.members[draws.member_of(9)].draw(9, 4)
        assert all(torch.equal(later[name], draw[name]) for name in draw)
    model = network()
    with mixture.sampled(model, 9, seed=4):
        assert torch.equal(model[0].weight, later["0.weight"])
    stacked = mixture.draws([1, 9], seed=4)
    assert all(torch.equal(stacked[name][1], later[name]) for name in later)


def test_prediction_is_the_average_over_the_spread_draws():
    mixture, model = Mixture(members(3), [0.5, 0.3, 0.2]), network()
    got = ivon.predict(model, X, 10, posterior=mixture, seed=3)
    by_member = [
        [member.draw(k, 3) for k in range(10) if mixture.member_of(k) == i]
        for i, member in enumerate(mixture.members)
    ]
    assert [len(draws) for draws in by_member] == [5, 3, 2]
    probs = [
        torch.func.functional_call(model, draw, (X,)).softmax(-1) for draws in by_member for draw in draws
    ]
    torch.testing.assert_close(got.exp(), torch.stack(probs).mean(0))


@pytest.mark.parametrize("count", [3, 40])  # predicted one after the other, and together
def test_no_draws_is_the_weighted_average_of_the_predictions_of_the_means(count):
    weights = [float(1 + i % 4) for i in range(count)]
    mixture, model = Mixture(members(count), weights), network()
    expected = torch.zeros(5, 3)
    for member, weight in zip(mixture.members, mixture.weights, strict=True):
        expected += weight * torch.func.functional_call(model, member.mean, (X,)).softmax(-1)
    torch.testing.assert_close(ivon.predict(model, X, 0, posterior=mixture).exp(), expected)


def test_moving_keeps_the_draws():
    mixture = Mixture(members(3), [1, 2, 3])
    moved = mixture.to("cpu")
    assert [moved.member_of(k) for k in range(60)] == [mixture.member_of(k) for k in range(60)]
    assert all(torch.equal(v, mixture.draw(7)[name]) for name, v in moved.draw(7).items())


def test_what_makes_no_sense_is_refused():
    two = members(2)
    with pytest.raises(ValueError, match="members must be posteriors"):
        Mixture([])
    for weights in ([1.0], [1.0, 0.0], [1.0, -1.0], [1.0, math.inf], [1.0, math.nan]):
        with pytest.raises(ValueError, match="weights must be 2 finite numbers > 0"):
            Mixture(two, weights)
    model = nn.Sequential(nn.Linear(4, 7))
    other = Posterior.of(model, ivon.IVON(model.parameters(), lr=0.1, ess=20.0))
    with pytest.raises(ValueError, match=r"'0.weight' has shapes \(6, 4\), \(7, 4\)"):
        Mixture([two[0], other])
    with pytest.raises(ValueError, match="k must be an integer >= 0"):
        Mixture(two).draw(-1)
    with pytest.raises(ValueError, match=r"'0\.weight' has shape"):
        ivon.predict(model, X, posterior=Mixture(two))
