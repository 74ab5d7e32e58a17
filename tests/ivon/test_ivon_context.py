"""What `sampled_params` promises: a draw inside, exactly the mean outside, noise that can be reproduced."""

import copy

import pytest
import torch
from torch import nn

from ivon import IVON

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def make_params(dtype=torch.float32):
    """Magnitudes from 1e-6 to 1e3, so that adding and subtracting the noise would not restore the bits."""
    rng = torch.Generator().manual_seed(0)
    scale = torch.logspace(-6, 3, 50)
    values = [(torch.randn(50, generator=rng) * scale).to(dtype) for _ in range(2)]
    return [nn.Parameter(values[0].reshape(5, 10)), nn.Parameter(values[1])]


def snapshot(params):
    return [p.detach().clone() for p in params]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def train_step(optimizer, params):
    with optimizer.sampled_params(train=True):
        optimizer.zero_grad()
        sum((p.float() ** 2).sum() for p in params).backward()
    optimizer.step()


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_are_bit_identical_after_the_context(dtype, train):
    params = make_params(dtype)
    optimizer = IVON(params, lr=0.1, ess=10.0)
    before = snapshot(params)
    with optimizer.sampled_params(train=train):
        assert not same(before, params)
    assert same(before, params)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    "conversion", [torch.float64, torch.bfloat16, torch.float32, torch.channels_last], ids=str
)
def test_a_model_converted_within_the_context_has_the_means_after_it(conversion, train):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 2))
    params = list(model.parameters())
    optimizer = IVON(params, lr=0.1, ess=10.0)
    before = snapshot(params)
    with optimizer.sampled_params(train=train):
        if isinstance(conversion, torch.memory_format):
            model.to(memory_format=conversion)
        else:
            model.half().to(conversion)
    assert same([b.to(p.dtype) for b, p in zip(before, params, strict=True)], params)
    if not train:
        train_step(optimizer, params)
        assert all(p.isfinite().all() for p in params)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_parameters_that_share_memory_are_refused(dtype):
    """The way back from one draw would end at the other."""
    memory = torch.zeros(4, 6, dtype=dtype)
    shared = [
        [nn.Parameter(memory), nn.Parameter(memory)],
        [nn.Parameter(memory[:3]), nn.Parameter(memory[2:])],
    ]
    for params in shared:
        before = memory.clone()
        optimizer = IVON([nn.Parameter(torch.zeros(2)), *params], lr=0.1, ess=10.0)
        with pytest.raises(RuntimeError, match="parameters 1 and 2 share memory"):
            optimizer.sampled_params(train=True).__enter__()
        assert memory.equal(before)
        params[1].data = params[1].detach().clone()
        train_step(optimizer, params)
    for apart in ([memory[:2], memory[2:]], [memory[:, ::2], memory[:, 1::2]], [memory[:0], memory[:0]]):
        train_step(IVON(params := [nn.Parameter(part) for part in apart], lr=0.1, ess=10.0), params)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_weights_are_restored_and_the_draw_does_not_count_after_an_exception(error):
    params = make_params()
    optimizer = IVON(params, lr=0.1, ess=10.0)
    before = snapshot(params)

    def interrupted():
        with optimizer.sampled_params(train=True):
            params[0].grad = torch.ones_like(params[0])
            raise error

    with pytest.raises(error):
        interrupted()
    assert same(before, params)
    with pytest.raises(RuntimeError, match="step"):
        optimizer.step()
    train_step(optimizer, params)  # and the optimizer goes on working


def test_weights_are_restored_on_break_and_return():
    params = make_params()
    optimizer = IVON(params, lr=0.1, ess=10.0)
    before = snapshot(params)

    def leave_early():
        with optimizer.sampled_params():
            return params[0].detach().clone()

    for _ in range(3):
        with optimizer.sampled_params(train=True):
            break
    assert not torch.equal(leave_early(), before[0])
    assert same(before, params)


def test_backward_after_the_context_raises_instead_of_using_the_wrong_weights():
    p = nn.Parameter(torch.ones(3))
    optimizer = IVON([p], lr=0.1, ess=10.0)
    with optimizer.sampled_params(train=True):
        loss = (p**2).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("call", ["sampled_params", "step", "state_dict", "copy"])
def test_calls_that_make_no_sense_within_the_context_say_so(call):
    optimizer = IVON(make_params(), lr=0.1, ess=10.0)
    calls = {
        "sampled_params": lambda: optimizer.sampled_params().__enter__(),
        "step": optimizer.step,
        "state_dict": optimizer.state_dict,
        "copy": lambda: copy.deepcopy(optimizer),
    }
    with optimizer.sampled_params(), pytest.raises(RuntimeError, match="leave that context first"):
        calls[call]()


def test_frozen_parameters_are_neither_drawn_nor_decayed():
    params = make_params()
    params[0].requires_grad_(False)
    optimizer = IVON(params, lr=0.1, ess=10.0, weight_decay=0.5)
    before = snapshot(params)
    with optimizer.sampled_params(train=True):
        assert torch.equal(params[0], before[0])
        assert not torch.equal(params[1], before[1])
        (params[1] ** 2).sum().backward()
    optimizer.step()
    assert torch.equal(params[0], before[0])
    assert not torch.equal(params[1], before[1])
    params[0].requires_grad_(True)  # thawed later, as in gradual unfreezing
    train_step(optimizer, params)
    assert not torch.equal(params[0], before[0])
    assert [optimizer.state[p]["step"] for p in params] == [1, 2]


def test_noise_is_a_function_of_the_seed():
    def draws(seed, count=3):
        params = make_params()
        optimizer = IVON(params, lr=0.1, ess=10.0)
        optimizer.seed(seed)
        seen = []
        for _ in range(count):
            with optimizer.sampled_params(train=True):
                seen.append(torch.cat([p.detach().reshape(-1) for p in params]))
        return torch.stack(seen)

    assert torch.equal(draws(5), draws(5))
    assert not torch.equal(draws(5), draws(6))
    assert len(draws(5, 100).unique(dim=0)) == 100


def test_default_seed_follows_the_global_generator_once_per_optimizer():
    def first_draw(global_seed, skip=0):
        torch.manual_seed(global_seed)
        optimizers = [IVON(make_params(), lr=0.1, ess=10.0) for _ in range(skip + 1)]
        with optimizers[-1].sampled_params():
            return optimizers[-1].param_groups[0]["params"][0].detach().clone()

    assert torch.equal(first_draw(1), first_draw(1))
    assert not torch.equal(first_draw(1), first_draw(2))
    assert not torch.equal(first_draw(1), first_draw(1, skip=1))  # members of an ensemble differ
    state = torch.get_rng_state()
    optimizer = IVON(make_params(), lr=0.1, ess=10.0)
    assert not torch.equal(state, torch.get_rng_state())
    state = torch.get_rng_state()
    train_step(optimizer, optimizer.param_groups[0]["params"])
    assert torch.equal(state, torch.get_rng_state())  # training does not touch it


@pytest.mark.parametrize("with_generator", [False, True])
def test_test_draws_leave_the_training_alone(with_generator):
    def train(evaluate):
        params = make_params()
        optimizer = IVON(params, lr=0.1, ess=10.0)
        optimizer.seed(3)
        for _ in range(3):
            train_step(optimizer, params)
            for _ in range(2 * evaluate):
                generator = torch.Generator().manual_seed(9) if with_generator else None
                with optimizer.sampled_params(generator=generator):
                    pass
        return params

    assert same(train(evaluate=False), train(evaluate=True))


def test_given_generator_is_the_source_of_the_noise():
    params = make_params()
    optimizer = IVON(params, lr=0.1, ess=10.0, hess_init=2.0)
    mean = torch.cat([p.detach().reshape(-1) for p in params])

    def draws(seed, train, count=2):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            with optimizer.sampled_params(train=train, generator=generator):
                yield torch.cat([p.detach().reshape(-1) for p in params]) - mean

    for train in (False, True):
        first, second = draws(4, train)
        assert same((first, second), draws(4, train))
        assert not torch.equal(first, second)
        assert not torch.equal(first, next(draws(5, train)))


def test_evaluation_in_inference_mode_may_come_before_training():
    params = make_params()
    optimizer = IVON(params, lr=0.1, ess=10.0)
    with torch.inference_mode(), optimizer.sampled_params():
        pass
    train_step(optimizer, params)
    with torch.inference_mode(), optimizer.sampled_params():
        pass
    train_step(optimizer, params)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_small_steps_of_16_bit_parameters_are_not_lost(dtype):
    """From 1.0 the next bfloat16 is 0.0039 away; a thousand steps of 1e-4 must nevertheless arrive at 0.9."""
    p = nn.Parameter(torch.ones(4, dtype=dtype))
    optimizer = IVON([p], lr=1e-4, ess=100.0, beta1=0.0, weight_decay=0.0, beta2=1 - 1e-9)
    for _ in range(1000):
        with optimizer.sampled_params(train=True):
            p.grad = torch.ones_like(p)
        optimizer.step()
    mean = p.detach().float() + optimizer.state[p]["residual"]
    torch.testing.assert_close(mean, torch.full((4,), 0.9), atol=1e-4, rtol=0)
    assert {optimizer.state[p][name].dtype for name in ("hess", "momentum", "residual")} == {torch.float32}
