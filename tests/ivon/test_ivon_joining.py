"""Parameters that become trainable, or are frozen, between the beginning of a draw and the step."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from ivon import IVON, reference

EQUAL = {"rtol": 1e-9, "atol": 1e-12}  # float64, in another order of operations
OPTIONS = {"lr": 0.1, "ess": 10.0, "beta2": 0.8, "weight_decay": 0.1, "hess_init": 0.5}
JOIN = ["unfrozen", "added"]


def make(join="unfrozen", **options):
    """A parameter that is trained, and one that joins when the function is called."""
    first = nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))
    late = nn.Parameter(torch.linspace(1, 2, 4, dtype=torch.float64))
    late.requires_grad_(join == "added")
    optimizer = IVON([first] if join == "added" else [first, late], **{**OPTIONS, **options})
    optimizer.seed(1)

    def come():
        if join == "added":
            optimizer.add_param_group({"params": [late]})
        else:
            late.requires_grad_()

    return first, late, optimizer, come


def backward(*params):
    sum((param**3).sum() for param in params).backward()


def settings(estimator="price", beta2=OPTIONS["beta2"]):
    return reference.Settings(lamda=10.0, h0=0.5, beta2=beta2, delta=0.1, estimator=estimator)


def cubed(theta):
    return 3 * theta**2


def assert_is(optimizer, param, expected):
    torch.testing.assert_close(param.detach(), expected.m, **EQUAL)
    torch.testing.assert_close(optimizer.state[param]["hess"], expected.h, **EQUAL)
    torch.testing.assert_close(optimizer.state[param]["momentum"], expected.g, **EQUAL)
    assert optimizer.state[param]["step"] == expected.t


@pytest.mark.parametrize("join", JOIN)
@pytest.mark.parametrize("estimator", ["price", "gradsq"])
@pytest.mark.parametrize("clip", [False, True])
def test_the_gradient_of_one_that_joins_within_a_draw_counts(join, estimator, clip):
    """Algorithm 1 at its mean; with Eq. 3, whose noise was none, and a Hessian that stays as it is."""
    first, late, optimizer, come = make(join, hess_approx=estimator)
    before = late.detach().clone()
    with optimizer.sampled_params(train=True):
        come()
        assert torch.equal(late, before)
        backward(first, late)
    assert torch.equal(late, before)
    if clip:
        late.grad.mul_(0.5)  # read late, as that of all others
    optimizer.step()
    s = settings(estimator) if estimator == "gradsq" else settings(beta2=1.0)
    half = [lambda theta: cubed(theta) * (0.5 if clip else 1.0)]
    expected = reference.step(
        reference.init(before, s), half, [torch.zeros(4, dtype=torch.float64)], s, alpha=0.1
    )
    assert_is(optimizer, late, expected)


@pytest.mark.parametrize("join", JOIN)
def test_the_others_do_not_notice(join):
    results = []
    for joins in (False, True):
        first, late, optimizer, come = make(join)
        with optimizer.sampled_params(train=True):
            if joins:
                come()
                backward(late)
            backward(first)
        optimizer.step()
        results.append([first.detach(), *(optimizer.state[first][name] for name in ("hess", "momentum"))])
    torch.testing.assert_close(*results, **EQUAL)


@pytest.mark.parametrize("join", JOIN)
def test_from_the_next_draw_on_it_is_drawn(join):
    first, late, optimizer, come = make(join)
    with optimizer.sampled_params(train=True):
        come()
        backward(first, late)
    optimizer.step()
    mean = late.detach().clone()
    with optimizer.sampled_params(train=True):
        assert (late != mean).all()
        backward(first, late)
    optimizer.step()
    assert optimizer.state[late]["step"] == 2
    assert (optimizer.state[late]["hess"] != 0.5).all()


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 0.5)], ids=str)
@pytest.mark.parametrize("when", ["within the first draw", "between the draws"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_of_several_draws_those_that_say_nothing_about_the_hessian_leave_it(weights, when, reduction):
    """hhat is the average of the estimates of Eq. 3 and, for draws without noise, of h."""
    first, late, optimizer, come = make()
    before, noise = late.detach().clone(), None
    for k, weight in enumerate(weights):
        with optimizer.sampled_params(train=True, weight=weight, reduction=reduction):
            if k == 0 and when == "within the first draw":
                come()
            noise = late.detach() - before
            backward(first, late)
        if k == 0:
            come()
    optimizer.step()
    share = weights[1] / sum(weights)
    total = sum(weights) if reduction == "mean" else 1.0
    at_mean = cubed(before) if when == "within the first draw" else torch.zeros_like(before)
    at_draw = cubed(before + noise)
    ghat = (weights[0] * at_mean + weights[1] * at_draw) / total
    h, delta, rate = 0.5, 0.1, 0.2
    hhat = (1 - share) * h + weights[1] / total * at_draw * noise * 10 * (h + delta)
    expected = h + rate * (hhat - h) + 0.5 * rate**2 * (h - hhat) ** 2 / (h + delta)
    torch.testing.assert_close(optimizer.state[late]["momentum"], 0.1 * ghat, **EQUAL)
    torch.testing.assert_close(optimizer.state[late]["hess"], expected, **EQUAL)


@pytest.mark.parametrize("when", ["within the draw", "after the draw", "in the next draw"])
def test_one_that_is_frozen_again_is_trained_with_the_gradient_that_it_has(when):
    first, late, optimizer, come = make()
    come()
    before = late.detach().clone()
    with optimizer.sampled_params(train=True):
        backward(first, late)
        if when == "within the draw":
            late.requires_grad_(False)
    assert torch.equal(late, before)
    late.requires_grad_(False)
    if when == "in the next draw":
        with optimizer.sampled_params(train=True):
            assert torch.equal(late, before)
            backward(first)
    optimizer.step()
    assert (late != before).all()
    after = late.detach().clone()
    with optimizer.sampled_params(train=True):
        assert torch.equal(late, after)
        backward(first)
    optimizer.step()
    assert torch.equal(late, after)


POINTS = 6  # before and after the forward and backward passes of two draws, between them, before the step


@given(st.lists(st.tuples(*[st.booleans()] * 3), min_size=POINTS, max_size=POINTS), st.integers(1, 2))
def test_what_adamw_trains_is_trained(frozen, draws):
    """Whoever is frozen when, at every point of a step; nothing else moves."""

    def moved(make_optimizer, draw):
        params = [nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(3)]
        optimizer = make_optimizer(params)
        points = iter(frozen)

        def next_point():
            for param, is_frozen in zip(params, next(points), strict=True):
                param.requires_grad_(not is_frozen)

        next_point()
        for _ in range(draws):
            with draw(optimizer):
                next_point()
                trainable = [param for param in params if param.requires_grad]
                if trainable:
                    backward(*trainable)
                next_point()
        next_point()
        if all(param.grad is None for param in params):
            return None
        optimizer.step()
        return [bool((param != 1).any()) for param in params]

    def noisy(optimizer):
        return optimizer.sampled_params(train=True)

    def plain(optimizer):
        return torch.enable_grad()

    expected = moved(lambda params: torch.optim.AdamW(params, weight_decay=0.0), plain)
    assume(expected is not None)
    assert moved(lambda params: IVON(params, lr=0.1, ess=10.0), noisy) == expected


@pytest.mark.parametrize("join", JOIN)
def test_a_gradient_from_before_it_joined_is_not_taken_for_one_of_the_draw(join):
    first, late, optimizer, come = make(join)
    late.requires_grad_()
    backward(late)
    late.requires_grad_(join == "added")

    def draw():
        with optimizer.sampled_params(train=True):
            come()
            backward(first, late)

    with pytest.raises(RuntimeError, match="outside of sampled_params"):
        draw()
    optimizer.zero_grad()
    late.grad = None
    with optimizer.sampled_params(train=True):
        backward(first, late)
    optimizer.step()


@pytest.mark.parametrize("join", JOIN)
def test_a_gradient_that_it_gets_after_the_draw_is_refused(join):
    """At the mean of all others; AdamW, which has no draws, takes it."""
    first, late, optimizer, come = make(join)
    with optimizer.sampled_params(train=True):
        backward(first)
    come()
    backward(late)
    with pytest.raises(RuntimeError, match="outside of sampled_params"):
        optimizer.step()
    late.grad = None
    optimizer.step()


def test_one_that_joins_is_in_a_checkpoint_of_an_unfinished_step():
    results = []
    for interrupted in (False, True):
        first, late, optimizer, come = make()
        for k in range(3):
            with optimizer.sampled_params(train=True):
                if k == 1:
                    come()
                backward(*(param for param in (first, late) if param.requires_grad))
            if interrupted and k == 1:
                saved = optimizer.state_dict()
                first, late, optimizer, come = make()
                come()
                optimizer.load_state_dict(saved)
        optimizer.step()
        results.append([late.detach(), optimizer.state[late]["hess"], first.detach()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_step_leaves_nothing_of_its_draws_in_the_states():
    first, late, optimizer, come = make()
    for _ in range(2):
        with optimizer.sampled_params(train=True):
            come()
            backward(first, late)
    optimizer.step()
    for param in (first, late):
        assert set(optimizer.state[param]) == {"step", "momentum_weight", "hess", "momentum"}
