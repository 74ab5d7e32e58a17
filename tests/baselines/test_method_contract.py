"""What the training loop and the evaluation loop rely on, for every method of the registry."""

import io
from copy import deepcopy

import pytest
import torch

from baselines import METHODS
from baselines.method import Loss


@pytest.fixture(params=METHODS)
def name(request) -> str:
    return request.param


def weights(model) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def assert_same_bits(one, other) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


def test_learns(name, built, batches, run):
    losses = run(*built(name), batches(0, 60))
    # ln 10 = 2.30 is the loss of guessing. The methods reach 1.0 to 1.3, a network that does not learn stays.
    assert losses[0] > 2.2
    assert sum(losses[-10:]) / 10 < 1.5


def test_step_returns_the_loss_without_its_graph(name, built, batches):
    model, method = built(name)
    ((images, labels),) = batches(0, 1)
    loss = method.step(Loss(model, images, labels))
    assert loss.shape == ()
    assert loss.isfinite()
    assert not loss.requires_grad


def test_seed_alone_decides_the_result(name, built, batches, run):
    """The global generator is neither read nor moved by the steps."""
    model, method = built(name)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    run(model, method, batches(0, 5))
    assert torch.equal(torch.get_rng_state(), before)
    again, other = built(name)
    torch.manual_seed(2)
    run(again, other, batches(0, 5))
    assert_same_bits(weights(model), weights(again))


def test_another_seed_gives_other_weights(name, built, batches, run):
    """Unless there is nothing to draw in a training."""
    (one, method), (other, reseeded) = built(name), built(name, seed=1)
    run(one, method, batches(0, 3))
    run(other, reseeded, batches(0, 3))
    same = all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))
    assert same == (name in ("sgd", "adamw", "swag", "ogn"))


@pytest.mark.parametrize("asked", [{"micro_batches": 4}, {"max_grad_norm": 1e-3}], ids=str)
def test_micro_batches_and_clipping_are_heeded_or_refused(name, asked, built, batches, run):
    model, method = built(name)
    before, shown = weights(model), []
    ((images, labels),) = batches(0, 1)
    loss = Loss(model, images, labels, seen=lambda _, number: shown.append(number), **asked)
    if name in ("vogn", "ogn", "bbb", "mc_dropout", "swag"):
        words = f"(?i){name.replace('_', '-')} needs micro_batches 1 and max_grad_norm inf"
        with pytest.raises(ValueError, match=words):
            method.step(loss)
        assert_same_bits(weights(model), before)
        return
    method.step(loss)
    if "micro_batches" in asked:
        assert shown == [0, 1, 2, 3]
    else:
        other, unclipped = built(name)
        run(other, unclipped, batches(0, 1))
        assert not torch.equal(model.get_parameter("0.weight"), other.get_parameter("0.weight"))


def test_learning_rate_is_that_of_the_param_groups(name, built, batches, run):
    model, method = built(name)
    run(model, method, batches(0, 3))
    before = weights(model)
    for group in method.optimizer.param_groups:
        group["lr"] = 0.0
    run(model, method, batches(3, 4))
    assert_same_bits(weights(model), before)


def test_saved_and_loaded_goes_on_bit_for_bit(name, built, batches, run):
    model, method = built(name)
    run(model, method, batches(0, 7))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "method": method.state_dict()}, file)
    method.begin_epoch(1, 2, 7)
    run(model, method, batches(7, 14))

    file.seek(0)
    saved = torch.load(file, weights_only=True)  # numbers, tensors and containers only
    loaded, other = built(name, seed=99)  # the state brings the stream of noise along
    loaded.load_state_dict(saved["model"])
    other.load_state_dict(saved["method"])
    other.begin_epoch(1, 2, 7)
    run(loaded, other, batches(7, 14))
    assert_same_bits(weights(loaded), weights(model))


def test_copied_goes_on_bit_for_bit(name, built, batches, run):
    model, method = built(name)
    run(model, method, batches(0, 3))
    copied, other = deepcopy((model, method))
    for one, its in ((model, method), (copied, other)):
        run(one, its, batches(3, 6))
    assert_same_bits(weights(copied), weights(model))


def test_draw_zero_is_the_point_estimate(name, built, batches, run):
    model, method = built(name)
    run(model, method, batches(0, 3))
    before = weights(model)
    with method.draw(0, torch.Generator()):
        assert_same_bits(weights(model), before)
    assert_same_bits(weights(model), before)


@pytest.mark.parametrize("k", [1, 2])
def test_draws_predict_and_leave_the_weights_as_they_were(name, k, built, batches, run):
    model, method = built(name)
    run(model, method, batches(0, 3))
    before = weights(model)
    ((images, _),) = batches(3, 4)

    def predictions(seed: int) -> torch.Tensor:
        with torch.no_grad(), method.draw(k, torch.Generator().manual_seed(seed)):
            return model(images).softmax(dim=1)

    probs = predictions(5)
    assert probs.isfinite().all()
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(len(probs)))
    assert_same_bits(weights(model), before)
    assert torch.equal(predictions(5), probs)  # the generator decides

    with pytest.raises(ZeroDivisionError), method.draw(k, torch.Generator()):
        raise ZeroDivisionError
    assert_same_bits(weights(model), before)


def test_draws_between_steps_do_not_change_the_training(name, built, batches, run):
    one, method = built(name)
    run(one, method, batches(0, 6))
    other, watched = built(name)
    for number in range(6):
        run(other, watched, batches(number, number + 1))
        with watched.draw(1, torch.Generator().manual_seed(number)):
            pass
    assert_same_bits(weights(one), weights(other))


def test_frozen_parameters_stay_untouched(name, built, batches, run):
    model, method = built(name, frozen=("0.weight", "3.bias"))
    before = dict(zip(("0.weight", "0.bias", "3.weight", "3.bias"), weights(model), strict=True))
    run(model, method, batches(0, 4))
    with method.draw(1, torch.Generator().manual_seed(0)):
        for frozen in ("0.weight", "3.bias"):
            assert torch.equal(model.get_parameter(frozen), before[frozen])
    for parameter, old in before.items():
        moved = not torch.equal(model.get_parameter(parameter), old)
        assert moved == (parameter in ("0.bias", "3.weight"))
