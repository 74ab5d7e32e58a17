"""Gradients are read late: what happens to `p.grad` between the context and the step counts."""

import copy
from contextlib import ExitStack, nullcontext

import pytest
import torch
from torch import nn

from ivon import IVON, per_example_backward

X = torch.linspace(-1, 1, 24).reshape(6, 4)
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def make(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = IVON(model.parameters(), **{"lr": 0.5, "ess": 30.0, "beta2": 0.9, **options})
    optimizer.seed(0)
    return model, optimizer


def loss_of(model):
    return nn.functional.cross_entropy(model(X), Y)


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def plain_training(
    steps=3, draws=1, before_step=lambda model: None, in_context=lambda model: None, **options
):
    model, optimizer = make(**options)
    for _ in range(steps):
        for _ in range(draws):
            with optimizer.sampled_params(train=True):
                optimizer.zero_grad()
                loss_of(model).backward()
                in_context(model)
        before_step(model)
        optimizer.step()
    return weights(model)


def test_clipping_after_the_context_counts():
    def clip(model):
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)

    late, early = plain_training(before_step=clip), plain_training(in_context=clip)
    assert torch.equal(late, early)
    assert not torch.equal(late, plain_training())


def test_replacing_gradients_after_the_context_counts():
    def double(model):
        for p in model.parameters():
            p.grad = p.grad * 2

    assert torch.equal(plain_training(before_step=double), plain_training(in_context=double))


@pytest.mark.parametrize(
    "habit", ["no zero_grad", "before the context", "model, before the context", "to zeros"]
)
@pytest.mark.parametrize("draws", [1, 3])
def test_where_gradients_are_zeroed_does_not_matter(habit, draws):
    model, optimizer = make()
    for _ in range(3):
        for _ in range(draws):
            if habit == "before the context":
                optimizer.zero_grad()
            elif habit == "model, before the context":
                model.zero_grad()
            elif habit == "to zeros":
                optimizer.zero_grad(set_to_none=False)
            with optimizer.sampled_params(train=True):
                loss_of(model).backward()
        optimizer.step()
    assert torch.equal(weights(model), plain_training(draws=draws))


def test_gradient_from_outside_is_not_missed_where_a_used_one_was():
    (param, optimizer) = (p := nn.Parameter(torch.ones(3)), IVON([p], lr=0.1, ess=10.0))
    with optimizer.sampled_params(train=True):
        param.grad = torch.ones(3)
    optimizer.step()
    used = id(param.grad)
    param.grad = None
    others = [torch.ones(3) for _ in range(100)]
    param.grad = next(
        (other for other in others if id(other) == used), others[0]
    )  # freed memory is used again
    with pytest.raises(RuntimeError, match="outside of sampled_params"), optimizer.sampled_params(train=True):
        pass


def test_gradient_from_outside_is_not_missed_where_it_was_added_to_a_used_one():
    (param, optimizer) = (p := nn.Parameter(torch.ones(3)), IVON([p], lr=0.1, ess=10.0))
    with optimizer.sampled_params(train=True):
        param.sum().backward()
    optimizer.step()
    used = param.grad
    param.sum().backward()
    assert param.grad is used  # added in place
    with pytest.raises(RuntimeError, match="outside of sampled_params"), optimizer.sampled_params(train=True):
        pass


def zero_in_place(model, optimizer):
    for param in model.parameters():
        param.grad.zero_()


ZEROING = {
    "optimizer.zero_grad": lambda model, optimizer: optimizer.zero_grad(),
    "optimizer.zero_grad, to zeros": lambda model, optimizer: optimizer.zero_grad(set_to_none=False),
    "model.zero_grad": lambda model, optimizer: model.zero_grad(),
    "model.zero_grad, to zeros": lambda model, optimizer: model.zero_grad(set_to_none=False),
    "in place": zero_in_place,
}


@pytest.mark.parametrize("zero", ZEROING)
@pytest.mark.parametrize("where", ["before a draw", "within a draw", "within a closure"])
@pytest.mark.parametrize("draws", [1, 2])
def test_gradient_of_a_probe_at_the_mean_is_dropped_when_it_is_zeroed(zero, where, draws):
    """Before each step, and in the first draw only, as other optimizers have it."""
    model, optimizer = make()

    def closure(first=True):
        if first and where != "before a draw":
            ZEROING[zero](model, optimizer)
        loss_of(model).backward()

    for _ in range(3):
        (10 * loss_of(model)).backward()
        if where == "before a draw":
            ZEROING[zero](model, optimizer)
        for k in range(draws - (where == "within a closure")):
            with optimizer.sampled_params(train=True):
                closure(first=k == 0)
        optimizer.step(*([lambda: closure(first=draws == 1)] if where == "within a closure" else []))
    assert torch.equal(weights(model), plain_training(draws=draws))


@pytest.mark.parametrize("add", ["backward", "per_example_backward", "nothing"])
def test_gradient_of_a_probe_that_is_not_zeroed_is_no_gradient_of_the_draw(add):
    model, optimizer = make()
    before = weights(model)
    loss_of(model).backward()

    def draw():
        with optimizer.sampled_params(train=True):
            if add == "backward":
                loss_of(model).backward()
            elif add == "per_example_backward":
                per_example_backward(model, nn.functional.cross_entropy, X, Y)

    with pytest.raises(RuntimeError, match="outside of sampled_params"):
        draw()
    assert torch.equal(weights(model), before)
    assert not any(param._backward_hooks for param in model.parameters())


def test_gradient_of_a_parameter_that_stays_frozen_is_nobodys():
    model, optimizer = make()
    loss_of(model).backward()
    model[0].requires_grad_(False)
    for param in model[2].parameters():
        param.grad = None
    kept = model[0].weight.grad
    for _ in range(2):
        with optimizer.sampled_params(train=True):
            loss_of(model).backward()
        optimizer.step()
    assert model[0].weight.grad is kept or model[0].weight.grad is None
    assert model[0].weight not in optimizer.state


@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_zeroing_gradients_within_a_test_draw_loses_none(draws, set_to_none):
    model, optimizer = make()
    for _ in range(3):
        for _ in range(draws):
            with optimizer.sampled_params(train=True):
                loss_of(model).backward()
        with optimizer.sampled_params():
            optimizer.zero_grad(set_to_none=set_to_none)
        optimizer.step()
    expected = plain_training(draws=draws)
    # The step from sums rounds as that from one draw does, or by an ulp otherwise.
    torch.testing.assert_close(weights(model), expected)


def test_step_leaves_the_gradient_to_be_looked_at():
    model, optimizer = make()
    for weight in (1.0, 3.0):
        with optimizer.sampled_params(train=True, weight=weight):
            loss_of(model).backward()
        before = [p.grad.clone() for p in model.parameters()]
        optimizer.step()
        assert all(torch.equal(p.grad, b) for p, b in zip(model.parameters(), before, strict=True))


def test_parameter_without_gradient_is_left_alone():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = IVON([used, unused], lr=0.1, ess=10.0, weight_decay=0.5)
    with optimizer.sampled_params(train=True):
        (used**2).sum().backward()
    optimizer.step()
    assert torch.equal(unused, torch.ones(2))
    assert not torch.equal(used, torch.ones(2))
    assert optimizer.state[unused]["step"] == 0
    assert torch.equal(optimizer.state[unused]["hess"], torch.ones(2))


def test_gradient_missing_in_some_of_the_draws_is_zero_there():
    results = []
    for explicit in (False, True):
        p = nn.Parameter(torch.ones(2))
        optimizer = IVON([p], lr=0.1, ess=10.0)
        optimizer.seed(1)
        for grad in (torch.ones(2), torch.zeros(2) if explicit else None, torch.ones(2)):
            with optimizer.sampled_params(train=True):
                p.grad = grad
        optimizer.step()
        results.append((p.detach(), optimizer.state[p]["hess"]))
    torch.testing.assert_close(results[0], results[1])


def test_draws_can_be_discarded():
    model, optimizer = make()
    before = weights(model)
    for _ in range(2):
        with optimizer.sampled_params(train=True):
            (loss_of(model) * float("nan")).backward()
    optimizer.discard_draws()
    with pytest.raises(RuntimeError, match="needs a gradient at a posterior draw"):
        optimizer.step()
    assert torch.equal(weights(model), before)
    with optimizer.sampled_params(train=True):
        loss_of(model).backward()
    optimizer.step()
    assert weights(model).isfinite().all()


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("hess_approx", ["price", "gradsq"])
@pytest.mark.parametrize("own_context", [False, True])
def test_step_with_closure_makes_its_own_draws(draws, hess_approx, own_context):
    """Also where the closure enters a context, as those for ivon-opt have to."""
    model, optimizer = make(mc_samples=draws, hess_approx=hess_approx)
    losses = []

    def closure():
        with optimizer.sampled_params(train=True) if own_context else nullcontext():
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
        losses.append(loss.item())
        return loss

    for _ in range(3):
        returned = optimizer.step(closure)
        assert returned.item() == pytest.approx(sum(losses[-draws:]) / draws)
    assert len(losses) == 3 * draws
    assert torch.equal(weights(model), plain_training(draws=draws, hess_approx=hess_approx))


@pytest.mark.parametrize(
    "options",
    [{"weight": 2.0}, {"generator": torch.Generator()}, {"train": False}],
    ids=["weight", "generator", "test"],
)
def test_a_closure_begins_with_the_draw_that_it_is_at(options):
    """Which can be taken for that of one plain context only."""
    model, optimizer = make()

    def closure():
        with optimizer.sampled_params(**{"train": True, **options}):
            loss_of(model).backward()

    before = weights(model)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="leave that context first"):
            optimizer.step(closure)
        assert torch.equal(weights(model), before)
    with optimizer.sampled_params(train=True):  # not within a closure now
        assert not torch.equal(weights(model), before)


def test_a_closure_may_make_more_draws_of_its_own():
    """As those for ivon-opt do; tests in between are at draws of theirs."""
    model, optimizer = make()

    def closure():
        for _ in range(3):
            with optimizer.sampled_params(train=True):
                optimizer.zero_grad()
                loss_of(model).backward()
            mean = weights(model)
            with optimizer.sampled_params():
                assert not torch.equal(weights(model), mean)

    for _ in range(3):
        optimizer.step(closure)
    assert torch.equal(weights(model), plain_training(draws=3))


@pytest.mark.parametrize("draws", [1, 2])
def test_clipping_in_a_closure_after_its_context_is_clipping_all_draws(draws):
    """There it ends the draw, as anywhere else."""

    def clip(model):
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)

    model, optimizer = make()

    def closure():
        with optimizer.sampled_params(train=True):
            loss_of(model).backward()
        clip(model)

    for _ in range(3):
        for _ in range(draws - 1):
            with optimizer.sampled_params(train=True):
                loss_of(model).backward()
        optimizer.step(closure)
    assert torch.equal(weights(model), plain_training(draws=draws, before_step=clip))


def test_a_closure_that_leaves_its_context_open_makes_no_draw():
    """As where the backward pass that was to follow is skipped; closing it later does nothing more."""
    model, optimizer = make()
    before = weights(model)
    with ExitStack() as stack:
        optimizer.step(lambda: stack.enter_context(optimizer.sampled_params(train=True)))
        assert torch.equal(weights(model), before)
    assert torch.equal(weights(model), before)
    with optimizer.sampled_params(train=True):
        loss_of(model).backward()
    optimizer.step()
    assert not torch.equal(weights(model), before)


def test_draws_before_an_exception_in_a_closure_do_not_count():
    """Neither those that step() has made nor the user's own."""
    results = []
    for fails in (True, False):
        model, optimizer = make(mc_samples=2)
        if fails:
            calls = []

            def closure(model=model, calls=calls):
                calls.append(None)
                if len(calls) == 2:
                    raise KeyboardInterrupt
                (100 * loss_of(model)).backward()

            with optimizer.sampled_params(train=True):
                (100 * loss_of(model)).backward()
            with pytest.raises(KeyboardInterrupt):
                optimizer.step(closure)
            with pytest.raises(RuntimeError, match="needs a gradient at a posterior draw"):
                optimizer.step()
        optimizer.seed(5)
        with optimizer.sampled_params(train=True):
            loss_of(model).backward()
        optimizer.step()
        results.append(weights(model))
    assert torch.equal(*results)


def test_closure_without_gradients_changes_nothing():
    model, optimizer = make()
    before = weights(model)
    assert optimizer.step(lambda: None) is None
    assert torch.equal(weights(model), before)


def test_sparse_gradients_are_refused_in_words():
    embedding = nn.Embedding(5, 2, sparse=True)
    optimizer = IVON(embedding.parameters(), lr=0.1, ess=10.0)
    with optimizer.sampled_params(train=True):
        embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="dense gradients"):
        optimizer.step()


def scaled_training(scaler, draws=1, unscale=False, overflow_at=None, **options):
    """Three steps with a GradScaler; at (step, draw) `overflow_at` the loss is infinite."""
    model, optimizer = make(**options)
    for step in range(3):
        for draw in range(draws):
            with optimizer.sampled_params(train=True):
                optimizer.zero_grad()
                factor = float("inf") if (step, draw) == overflow_at else 1.0
                scaler.scale(loss_of(model) * factor).backward()
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    return model, optimizer


@pytest.mark.parametrize(("draws", "unscale"), [(1, False), (1, True), (3, False), (3, True)])
@pytest.mark.parametrize("hess_approx", ["price", "gradsq"])
def test_grad_scaler_changes_nothing(draws, unscale, hess_approx):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    model, _ = scaled_training(scaler, draws, unscale, hess_approx=hess_approx)
    # A power of two changes no bits.
    assert torch.equal(weights(model), plain_training(draws=draws, hess_approx=hess_approx))


@pytest.mark.parametrize("overflow_at", [(1, 0), (1, 1)])
@pytest.mark.parametrize("unscale", [False, True])
def test_step_that_overflows_is_skipped_and_forgotten(overflow_at, unscale):
    draws = overflow_at[1] + 1
    for unlucky_draws in {draws, 2}:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        model, optimizer = scaled_training(scaler, unlucky_draws, unscale, overflow_at=overflow_at)
        assert weights(model).isfinite().all()
        assert {state["step"] for state in optimizer.state.values()} == {2}


def test_disabled_grad_scaler_is_not_there():
    model, _ = scaled_training(torch.amp.GradScaler("cpu", enabled=False), draws=2, unscale=True)
    assert torch.equal(weights(model), plain_training(draws=2))


def test_scheduler_sets_the_learning_rate_of_each_step():
    """Without momentum and with a constant Hessian every move is lr(t) times the same."""
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = IVON([p], 0.8, 10.0, hess_init=0.5, beta1=0.0, beta2=1 - 1e-12, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    moves = []
    for _ in range(4):
        before = p.detach().clone()
        with optimizer.sampled_params(train=True):
            p.grad = torch.ones_like(p)
        optimizer.step()
        scheduler.step()
        moves.append((before - p.detach())[0].item())
    assert moves == pytest.approx([0.8, 0.4, 0.2, 0.1])  # rescaling cancels h0 exactly at the start


def test_groups_have_settings_of_their_own_and_may_be_added_later():
    a, b = (nn.Parameter(torch.ones(20_000)) for _ in range(2))
    optimizer = IVON([{"params": [a], "lr": 0.0, "hess_init": 3.0}], lr=0.1, ess=10.0, weight_decay=1.0)
    optimizer.add_param_group({"params": [b], "weight_decay": 0.5, "ess": 1000.0})
    with optimizer.sampled_params(train=True):
        # Standard errors of a standard deviation from 20,000 draws: 0.5 percent.
        assert a.std().item() == pytest.approx((10 * 4) ** -0.5, rel=0.03)
        assert b.std().item() == pytest.approx((1000 * 1.5) ** -0.5, rel=0.03)
        a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    optimizer.step()
    assert torch.equal(a, torch.ones(20_000))
    assert not torch.equal(b, torch.ones(20_000))


def test_parameters_of_different_dtypes_share_an_optimizer():
    params = [nn.Parameter(torch.ones(3, dtype=t)) for t in (torch.float32, torch.bfloat16, torch.float64)]
    optimizer = IVON(params, lr=0.1, ess=100.0)
    optimizer_alone = IVON([copy.deepcopy(params[0])], lr=0.1, ess=100.0)
    for o in (optimizer, optimizer_alone):
        o.seed(7)
        with o.sampled_params(train=True):
            for p in o.param_groups[0]["params"]:
                p.grad = torch.ones_like(p)
        o.step()
    assert torch.equal(params[0], optimizer_alone.param_groups[0]["params"][0])
    assert all((p < 1).all() for p in params)


def test_step_without_any_gradient_says_so():
    """As a CUDA graph of forward and backward passes alone leaves it; otherwise nothing would be learned."""
    p = nn.Parameter(torch.ones(2))
    optimizer = IVON([p], lr=0.1, ess=10.0)
    with optimizer.sampled_params(train=True):
        pass
    with pytest.raises(RuntimeError, match="no parameter has a gradient from the draws"):
        optimizer.step()
    for _ in range(2):
        with optimizer.sampled_params(train=True):
            pass
    with pytest.raises(RuntimeError, match="no parameter has a gradient from the draws"):
        optimizer.step()


@pytest.mark.parametrize("draws", [1, 2])
def test_clipping_where_a_group_has_no_gradient(draws):
    """An unused head beside a body whose gradients are clipped after each context."""
    body, head = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimizer = IVON([{"params": [head]}, {"params": [body]}], lr=0.1, ess=10.0)
    for _ in range(draws):
        with optimizer.sampled_params(train=True, weight=2.0):
            (5 * body).sum().backward()
        torch.nn.utils.clip_grad_norm_([body, head], 1.0)
    optimizer.step()
    assert (body != 1).all()
    assert (head == 1).all()
