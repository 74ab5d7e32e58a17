"""After several draws `p.grad` is their average: what is done to it there is done to all of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ivon import IVON, per_example_backward

X = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(6, 4)
Y = torch.tensor([0, 1, 2, 0, 1, 2])
WEIGHTS = (3.0, 1.0, 0.5)
EQUAL = {"rtol": 1e-9, "atol": 1e-12}  # float64, in another order of operations


def make(dtype=torch.float64, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
    optimizer = IVON(model.parameters(), **{"lr": 0.5, "ess": 30.0, "beta2": 0.9, **options})
    optimizer.seed(0)
    return model, optimizer


def backward(model, k=0, *, estimator="price", share=1.0):
    """From a loss of its own for each draw."""
    inputs = X.to(model[0].weight.dtype) + k

    def loss(outputs, targets):
        return nn.functional.cross_entropy(outputs, targets) * share

    if estimator == "ggn":
        per_example_backward(model, loss, inputs, Y)
    else:
        loss(model(inputs), Y).backward()


def grads_of(model):
    return [param.grad.clone() for param in model.parameters()]


def posterior(model, optimizer):
    states = [optimizer.state[param] for param in model.parameters()]
    names = ("hess", "momentum", "residual")
    return [p.detach() for p in model.parameters()] + [s[n] for s in states for n in names if n in s]


def clip_norm(params):
    return nn.utils.clip_grad_norm_(params, 0.05)


def clip_values(params):
    nn.utils.clip_grad_value_(params, 0.02)


def clip_through_data(params):
    """As older code does it: version counters do not see it."""
    for param in params:
        param.grad.data.mul_(0.3)


def mask(params):
    """As where some rows of an embedding are not to be trained."""
    params[0].grad[:3] = 0


def enlarge(params):
    for i, param in enumerate(params):
        param.grad = param.grad * (3.0 + i)


SCALINGS = [clip_norm, clip_values, clip_through_data, mask, enlarge]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_average_of_the_draws_is_shown(reduction):
    model, optimizer = make()
    own = []
    for k, weight in enumerate(WEIGHTS):
        with optimizer.sampled_params(train=True, weight=weight, reduction=reduction):
            optimizer.zero_grad()
            backward(model, k)
            own.append(grads_of(model))
        if k:
            share = sum(WEIGHTS[: k + 1]) if reduction == "mean" else 1.0
            for i, found in enumerate(grads_of(model)):
                expected = sum(w * of_draw[i] for w, of_draw in zip(WEIGHTS, own, strict=False)) / share
                torch.testing.assert_close(found, expected, **EQUAL)
    shown = grads_of(model)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(shown, grads_of(model), strict=True))


@pytest.mark.parametrize("estimator", ["price", "gradsq", "ggn"])
@pytest.mark.parametrize("scale", SCALINGS, ids=lambda scale: scale.__name__)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_scaling_after_the_draws_is_scaling_the_gradients_of_each(estimator, scale, reduction):
    """By the same ratios, found in a first run, within each context."""
    ratios: list[torch.Tensor] = []
    results = []
    for within in (False, True):
        model, optimizer = make(hess_approx=estimator)
        params = list(model.parameters())
        for k, weight in enumerate(WEIGHTS):
            with optimizer.sampled_params(train=True, weight=weight, reduction=reduction):
                optimizer.zero_grad()
                backward(model, k, estimator=estimator)
                if within:
                    for param, ratio in zip(params, ratios, strict=True):
                        param.grad *= ratio
                        if estimator == "ggn":
                            param.squared_grad *= ratio**2
        if not within:
            before = grads_of(model)
            scale(params)
            ratios = [p.grad / b for p, b in zip(params, before, strict=True)]
            assert any((ratio != 1).any() for ratio in ratios)
        optimizer.step()
        results.append(posterior(model, optimizer))
    torch.testing.assert_close(*results, **EQUAL)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("look", ["clip", "state_dict", "model.zero_grad", "optimizer.zero_grad"])
def test_what_changes_no_value_changes_no_bit(dtype, look):
    results = []
    for looks in (False, True):
        model, optimizer = make(dtype)
        for _ in range(3):
            for k, weight in enumerate(WEIGHTS):
                with optimizer.sampled_params(train=True, weight=weight):
                    backward(model, k)
                if looks and (k == 2 or look != "clip"):
                    if look == "clip":
                        nn.utils.clip_grad_norm_(model.parameters(), 1e6)
                    elif look == "state_dict":
                        optimizer.state_dict()
                    else:
                        (model if look == "model.zero_grad" else optimizer).zero_grad()
            optimizer.step()
        results.append(posterior(model, optimizer))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_clipping_of_16_bit_gradients_keeps_its_limit(dtype):
    """Their average is rounded to 16 bits for all to see; the sums keep 32."""
    model, optimizer = make(dtype, beta1=0.0)
    for k in range(3):
        with optimizer.sampled_params(train=True):
            backward(model, k)
    nn.utils.clip_grad_norm_(model.parameters(), 0.05)
    optimizer.step()
    used = torch.cat([optimizer.state[param]["momentum"].reshape(-1) for param in model.parameters()])
    assert used.norm().item() == pytest.approx(0.05, rel=0.02)


CHANGES = {
    "added": lambda grad: grad.add_(grad.flip(0)),
    "reversed in part": lambda grad: grad[:1].neg_(),
    "replaced": lambda grad: grad.copy_(torch.linspace(-1, 1, grad.numel()).view_as(grad)),
    "set where it was 0": lambda grad: grad.add_((grad == 0).to(grad.dtype)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("at", ["a step", "a draw", "a checkpoint"])
def test_other_changes_are_refused(change, at):
    param = nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.float64))
    optimizer = IVON([param], lr=0.1, ess=10.0)
    for _ in range(2):
        with optimizer.sampled_params(train=True):
            (param**2).sum().backward()
            param.grad[3] = 0
    CHANGES[change](param.grad)
    calls = {
        "a step": optimizer.step,
        "a draw": lambda: optimizer.sampled_params(train=True).__enter__(),
        "a checkpoint": optimizer.state_dict,
    }
    with pytest.raises(RuntimeError, match=r"within its sampled_params\(train=True\)"):
        calls[at]()


def test_a_gradient_at_the_mean_after_several_draws_is_refused():
    model, optimizer = make()
    for k in range(2):
        with optimizer.sampled_params(train=True):
            backward(model, k)
    backward(model)
    with pytest.raises(RuntimeError, match=r"within its sampled_params\(train=True\)"):
        optimizer.step()


@pytest.mark.parametrize("estimator", ["price", "gradsq", "ggn"])
@given(parts=st.integers(1, 4), clip=st.booleans())
def test_the_sum_of_divided_losses_is_the_mean_of_whole_ones(estimator, parts, clip):
    results = []
    for reduction, share in (("mean", 1.0), ("sum", 1 / parts)):
        model, optimizer = make(hess_approx=estimator)
        for k in range(parts):
            with optimizer.sampled_params(train=True, reduction=reduction):
                backward(model, k, estimator=estimator, share=share)
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimizer.step()
        results.append(posterior(model, optimizer))
    torch.testing.assert_close(*results, **EQUAL)


def test_a_sum_is_what_other_optimizers_have():
    """`p.grad` after each micro-batch is that of plain accumulation at the same weights."""
    model, optimizer = make()
    plain, _ = make()
    for k in range(4):
        with optimizer.sampled_params(train=True, reduction="sum"):
            with torch.no_grad():
                for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
                    theirs.copy_(ours)
            backward(model, k, share=0.25)
        backward(plain, k, share=0.25)
        torch.testing.assert_close(grads_of(model), grads_of(plain), **EQUAL)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("own_context", [False, True])
def test_a_closure_goes_on_with_the_sum(samples, own_context):
    """Its draws are one micro-batch, whose losses have its share each."""
    model, optimizer = make(mc_samples=samples)
    for k in range(2):
        with optimizer.sampled_params(train=True, reduction="sum"):
            backward(model, k, share=1 / 3)

    def closure():
        if own_context:
            with optimizer.sampled_params(train=True, reduction="sum"):
                backward(model, 2, share=1 / 3)
        else:
            backward(model, 2, share=1 / 3)

    optimizer.step(closure)
    other, by_hand = make()
    for k, weight in enumerate([1.0, 1.0, *[1 / samples] * samples]):
        with by_hand.sampled_params(train=True, weight=weight):
            backward(other, min(k, 2))
    by_hand.step()
    torch.testing.assert_close(posterior(model, optimizer), posterior(other, by_hand), **EQUAL)


def test_reductions_of_one_step_must_agree():
    model, optimizer = make()
    with pytest.raises(ValueError, match=r"reduction must be one of mean, sum; got 'max'"):
        optimizer.sampled_params(reduction="max").__enter__()
    with optimizer.sampled_params(train=True):
        backward(model)
    before = [param.detach().clone() for param in model.parameters()]
    with pytest.raises(RuntimeError, match="one reduction, got 'sum' after 'mean'"):
        optimizer.sampled_params(train=True, reduction="sum").__enter__()

    def closure():
        with optimizer.sampled_params(train=True, reduction="sum"):
            backward(model)

    with pytest.raises(RuntimeError, match="one reduction, got 'sum' after 'mean'"):
        optimizer.step(closure)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    optimizer.step(lambda: backward(model))  # the draws before it are forgotten


def test_a_sum_is_continued_from_a_checkpoint():
    results = []
    for interrupted in (False, True):
        model, optimizer = make()
        for k in range(4):
            with optimizer.sampled_params(train=True, reduction="sum"):
                backward(model, k, share=0.25)
            if interrupted and k == 1:
                saved = optimizer.state_dict()
                model, optimizer = make()
                optimizer.seed(99)
                optimizer.load_state_dict(saved)
        clip_norm(model.parameters())
        optimizer.step()
        results.append(posterior(model, optimizer))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_after_a_failed_draw_the_average_of_the_others_is_there():
    """As where a micro-batch does not fit into memory, and is left out."""
    model, optimizer = make()
    for k in range(2):
        with optimizer.sampled_params(train=True):
            backward(model, k)
    before = grads_of(model)

    def fail():
        with optimizer.sampled_params(train=True):
            backward(model, 5)
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()
    assert all(torch.equal(a, b) for a, b in zip(before, grads_of(model), strict=True))


def test_a_parameter_that_some_draws_did_not_use_is_clipped_too():
    used, sometimes = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    optimizer = IVON([used, sometimes], lr=0.1, ess=10.0, beta1=0.0)
    for k in range(3):
        with optimizer.sampled_params(train=True):
            (used.sum() + (30 * sometimes.sum() if k == 0 else 0)).backward()
    torch.testing.assert_close(sometimes.grad, torch.full_like(sometimes, 10.0))
    norm = nn.utils.clip_grad_norm_([used, sometimes], 1.0)
    optimizer.step()
    torch.testing.assert_close(optimizer.state[sometimes]["momentum"], 10 / norm.expand(3))


def test_gradients_that_a_loop_has_collected_keep_their_values():
    model, optimizer = make()
    collected, copies = [], []
    for k in range(3):
        with optimizer.sampled_params(train=True):
            backward(model, k)
            collected += [param.grad for param in model.parameters()]
            copies += grads_of(model)
    clip_norm(model.parameters())
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(collected, copies, strict=True))
