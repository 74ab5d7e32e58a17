"""Autocast, 16-bit parameters, GradScaler."""

import pytest
import torch
from torch import nn

from ivon import predict

STEPS = 12
LOW = [torch.bfloat16, torch.float16]


def train(task, dtype, scaler=None, max_norm=None, draws=1):
    """The plain loop within autocast, if there is a dtype for it."""
    model = task.model()
    optimizer = task.optimizer(model)
    for k in range(STEPS):
        for _ in range(draws):
            with (
                optimizer.sampled_params(train=True),
                torch.autocast("cpu", dtype=dtype, enabled=dtype is not None),
            ):
                loss = task.loss(model, task.batch(k))
                (loss if scaler is None else scaler.scale(loss)).backward()
        if max_norm is not None:
            if scaler is not None:
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
    return model, optimizer


def assert_near(left, right, tolerance):
    for p, q in zip(left.parameters(), right.parameters(), strict=True):
        assert (p.float() - q.float()).abs().max() < tolerance


# Weights of order 1, gradients with a relative error of 2^-9 or 2^-12, a few steps that add and amplify them.
TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.02}


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_float32_parameters_with_autocast(task, dtype):
    model, optimizer = train(task, dtype)
    task.assert_learned(model, optimizer)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    exact, _ = task.trained()
    assert not torch.equal(model[0].weight, exact[0].weight)
    assert_near(model, exact, TOLERANCE[dtype])


@pytest.mark.parametrize("grad", [False, True])
def test_draws_within_one_autocast_block_differ(task, grad):
    """autocast keeps the 16-bit copies of weights that it has made until its block ends."""
    model, optimizer = task.trained()

    def logits():
        with optimizer.sampled_params():
            return model(task.inputs).detach()

    with torch.set_grad_enabled(grad), torch.autocast("cpu", dtype=torch.bfloat16):
        mean_before = model(task.inputs).detach()
        together = [logits() for _ in range(3)]
        mean_after = model(task.inputs).detach()
    assert torch.equal(mean_before, mean_after)
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together[1], together[2])
    assert not torch.equal(together[0], mean_before)


def test_training_draws_within_one_autocast_block_equal_those_in_blocks_of_their_own(task):
    model = task.model()
    optimizer = task.optimizer(model)
    for k in range(STEPS):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for _ in range(2):
                with optimizer.sampled_params(train=True):
                    task.loss(model, task.batch(k)).backward()
            optimizer.step()
    task.assert_same(optimizer, train(task, torch.bfloat16, draws=2)[1])


def test_predict_within_autocast_averages_different_models(task):
    model, optimizer = task.trained()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = [predict(model, task.inputs, n, posterior=optimizer) for n in (0, 1, 16)]
    exact = [predict(model, task.inputs, n, posterior=optimizer) for n in (0, 1, 16)]
    for a, b in zip(low, exact, strict=True):
        assert 0 < (a - b).abs().mean() < 0.02  # log-probabilities from logits of order 1 with errors of 2^-8
    assert (exact[2] - exact[0]).abs().mean() > 0.1 < (exact[2] - exact[1]).abs().mean()


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_16_bit_parameters(task, dtype):
    low = type(task)(dtype)
    model, optimizer = low.trained()
    low.assert_learned(model, optimizer)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert {optimizer.state[p]["hess"].dtype for p in model.parameters()} == {torch.float32}
    assert_near(model, task.trained()[0], 2 * TOLERANCE[dtype])  # weights and activations are rounded now


@pytest.mark.parametrize("max_norm", [None, 0.05], ids=["", "clipped"])
@pytest.mark.parametrize("draws", [1, 2])
def test_float16_autocast_with_grad_scaler(task, max_norm, draws):
    """The scale starts too high: the first steps overflow, are skipped, and the scale comes down."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22, growth_interval=1000)
    model, optimizer = train(task, torch.float16, scaler, max_norm, draws)
    steps = {state["step"] for state in optimizer.state.values()}
    assert len(steps) == 1 and 6 <= steps.pop() < STEPS
    assert scaler.get_scale() < 2.0**22
    assert all(p.isfinite().all() for p in model.parameters())

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    model, optimizer = train(task, torch.float16, scaler, max_norm, draws)
    task.assert_learned(model, optimizer, at_most=0.5 if max_norm is None else 1.1)
    exact, _ = train(task, None, None, max_norm, draws)
    assert_near(model, exact, TOLERANCE[torch.float16])
