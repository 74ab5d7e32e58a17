"""SWAG: statistics against numpy's, draws against the exact covariance, and its phase of a training."""

import io

import numpy as np
import pytest
import torch
from torch import nn

from baselines.draws import flat
from baselines.method import Loss
from baselines.settings import SWAG
from baselines.swag import IterateGaussian
from experiments.engine.schedule import lr_factor


def wandering(steps: int, size: int = 6) -> tuple[nn.Linear, list[np.ndarray], IterateGaussian]:
    """A module whose weights wander around 1; the iterates; what was collected from them."""
    model, walk = nn.Linear(size - 1, 1).double(), torch.Generator().manual_seed(0)
    gaussian, iterates = IterateGaussian(model.parameters(), rank=4), []
    for _ in range(steps):
        with torch.no_grad():
            for param in model.parameters():
                param.copy_(1 + 0.01 * torch.randn(param.shape, generator=walk, dtype=param.dtype))
        iterates.append(flat(list(model.parameters())).numpy())
        gaussian.collect()
    return model, iterates, gaussian


@pytest.mark.parametrize("steps", [1, 3, 4, 11])
def test_statistics_are_numpys(steps):
    _, iterates, gaussian = wandering(steps)
    running = [np.mean(iterates[: i + 1], axis=0) for i in range(steps)]
    expected = [w - mean for w, mean in zip(iterates, running, strict=True)][-4:]
    # Double precision; deviations are a hundredth of the weights they are differences of.
    np.testing.assert_allclose(gaussian.mean.numpy(), running[-1], rtol=1e-14)
    np.testing.assert_allclose(gaussian.variance.numpy(), np.var(iterates, axis=0), rtol=1e-11, atol=1e-30)
    rows = gaussian.deviations[: min(steps, 4)].numpy()
    order = [(i % 4) for i in range(max(0, steps - 4), steps)]  # the oldest row is overwritten
    np.testing.assert_allclose(rows[order], expected, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("steps", [3, 11])  # fewer iterates than the rank, and more
def test_draws_have_the_exact_covariance(steps):
    model, iterates, gaussian = wandering(steps)
    running = [np.mean(iterates[: i + 1], axis=0) for i in range(steps)]
    rows = np.array([w - mean for w, mean in zip(iterates, running, strict=True)][-4:])
    covariance = 0.5 * (np.diag(np.var(iterates, axis=0)) + rows.T @ rows / (len(rows) - 1))

    generator, draws = torch.Generator().manual_seed(1), []
    for _ in range(4000):
        with gaussian.sampled(generator):
            draws.append(flat(list(model.parameters())).numpy())
    variances = covariance.diagonal()
    error = np.sqrt((np.outer(variances, variances) + covariance**2) / len(draws))  # of Gaussian draws
    assert (np.abs(np.cov(np.array(draws).T) - covariance) < 5 * error).all()
    assert (np.abs(np.mean(draws, axis=0) - running[-1]) < 5 * np.sqrt(variances / len(draws))).all()
    assert np.abs(covariance - np.diag(variances)).max() > 5 * error.max()  # the low rank would be missed


def test_a_single_iterate_has_no_spread():
    model, (iterate,), gaussian = wandering(1)
    with gaussian.sampled(torch.Generator().manual_seed(0)):
        assert np.array_equal(flat(list(model.parameters())).numpy(), iterate)


def test_variances_far_below_the_squared_weights_survive():
    """Mean square minus squared mean, taken literally in float32, would be zero or negative here."""
    weights = torch.zeros(3, requires_grad=True)
    gaussian = IterateGaussian([weights], rank=2)
    for sign in (1, -1) * 10:
        with torch.no_grad():
            weights.copy_(torch.tensor([1.0, 10.0, 100.0]) * (1 + sign * 2.0**-16))
        gaussian.collect()
    torch.testing.assert_close(
        gaussian.variance, torch.tensor([1.0, 100.0, 1e4]) * 2.0**-32, rtol=0.01, atol=0
    )


def trained(epochs: int, steps: int, settings: SWAG, *, stop: int | None = None):
    """Model, method, all rates and iterates of `epochs` on a small regression, as the engine runs them."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    method = settings.build(model, train_size=100, seed=0)
    rates, iterates = [], []
    go_on(model, method, range(stop or epochs * steps), epochs, steps, settings, rates, iterates)
    return model, method, rates, iterates


def go_on(model, method, numbers, epochs, steps, settings, rates, iterates) -> None:
    for number in numbers:
        epoch = number // steps
        if number % steps == 0 or number == numbers[0]:
            factor = lr_factor(epoch, warmup_epochs=5, cosine_epochs=160)
            for group in method.optimizer.param_groups:
                group["lr"] = settings.lr * factor
            method.begin_epoch(epoch, epochs, steps)
        inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(number))
        target = inputs.sum(1, keepdim=True)
        method.step(Loss(model, inputs, target, criterion=nn.functional.mse_loss))
        rates.append(method.optimizer.param_groups[0]["lr"])
        iterates.append(flat(list(model.parameters())))


def test_the_papers_run():
    """160 epochs of the schedule, 40 at a constant rate, an iterate at the end of each of these."""
    _, method, rates, iterates = trained(200, 2, SWAG(lr=0.05))
    assert rates[:320] == [0.05 * lr_factor(i // 2, warmup_epochs=5, cosine_epochs=160) for i in range(320)]
    assert rates[320:] == [0.01] * 80
    gaussian = method.gaussian
    assert (gaussian.count, gaussian.rank) == (40, 20)
    torch.testing.assert_close(gaussian.mean, torch.stack(iterates[321::2]).mean(0))


@pytest.mark.parametrize(
    ("epochs", "steps", "distance"), [(20, 20, 2), (5, 80, 2), (1, 40, 1), (1, 10, 1), (2, 45, 1)]
)
def test_short_runs_collect_as_much(epochs, steps, distance):
    """At least one epoch at a constant rate, 40 iterates if it has so many steps, the last at its end."""
    _, method, rates, iterates = trained(epochs, steps, SWAG(lr=0.05))
    length = max(1, round(0.2 * epochs)) * steps
    assert [rate == 0.01 for rate in rates] == [i >= len(rates) - length for i in range(len(rates))]
    assert method.gaussian.count == min(40, length)
    newest = method.gaussian.deviations[(method.gaussian.count - 1) % 20]
    torch.testing.assert_close(newest, iterates[-1] - method.gaussian.mean)
    if length % 40 == 0:
        expected = torch.stack(iterates[-length:][distance - 1 :: distance]).mean(0)
        torch.testing.assert_close(method.gaussian.mean, expected)


def test_point_estimate_is_the_mean_and_training_goes_on_from_the_iterate():
    model, method, _, iterates = trained(5, 8, SWAG(lr=0.05))
    for k in (0, 1):
        with method.draw(k, torch.Generator().manual_seed(0)):
            held = flat(list(model.parameters()))
            assert torch.equal(held, method.gaussian.mean) == (k == 0)
        assert torch.equal(flat(list(model.parameters())), iterates[-1])


@pytest.mark.parametrize("stop", [31, 34, 40])  # before the phase, within its epoch, at the end
def test_resumes_bit_for_bit(stop):
    settings = SWAG(lr=0.05, collections=3, rank=2)
    whole = trained(5, 8, settings)
    model, method, rates, iterates = trained(5, 8, settings, stop=stop)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "method": method.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    loaded = nn.Linear(3, 1)
    other = settings.build(loaded, train_size=100, seed=9)
    loaded.load_state_dict(saved["model"])
    other.load_state_dict(saved["method"])
    go_on(loaded, other, range(stop, 40), 5, 8, settings, rates, iterates)
    assert rates == whole[2]
    assert torch.equal(torch.stack(iterates), torch.stack(whole[3]))
    ours, theirs = other.gaussian.state_dict(), whole[1].gaussian.state_dict()
    assert ours.pop("count") == theirs.pop("count") == 3
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    draws = []
    for one, its in ((loaded, other), whole[:2]):
        with its.draw(1, torch.Generator().manual_seed(0)):
            draws.append(flat(list(one.parameters())))
    assert torch.equal(*draws)


@pytest.mark.parametrize(
    ("rank", "size", "words"),
    [
        (4, 9, "SWAG: the state is of 6 parameters, the model has 9"),
        (3, 6, "SWAG: the state has 4 deviations of 11 iterates, rank 3 needs 3"),
        (5, 6, "SWAG: the state has 4 deviations of 11 iterates, rank 5 needs 5"),
    ],
)
def test_state_of_another_model_or_rank_is_refused_and_changes_nothing(rank, size, words):
    _, _, other = wandering(11)
    weights = torch.ones(size, dtype=torch.float64, requires_grad=True)
    gaussian = IterateGaussian([weights], rank=rank)
    gaussian.collect()
    with pytest.raises(ValueError, match=words):
        gaussian.load_state_dict(other.state_dict())
    assert gaussian.count == 1
    assert torch.equal(gaussian.mean, weights)


def test_what_cannot_be_is_refused():
    weights = torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match="SWAG needs trainable parameters and rank >= 2"):
        IterateGaussian([weights], rank=1)
    with pytest.raises(ValueError, match="SWAG needs trainable parameters"):
        IterateGaussian([])
    gaussian = IterateGaussian([weights])
    for use in (gaussian.sampled, gaussian.averaged):
        with pytest.raises(RuntimeError, match="no iterates yet"), use():
            pass
