"""A training that is stopped, saved, loaded and continued gives the bits of one that is not."""

import copy
import io
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from ivon import IVON

DRAWS = 3


def make(dtype=torch.float32, hess_approx="price"):
    torch.manual_seed(0)
    model = nn.Linear(4, 3).to(dtype)
    groups = [{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.0}]
    optimizer = IVON(groups, lr=0.3, ess=20.0, beta2=0.9, hess_approx=hess_approx)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    return model, optimizer, scheduler


def draw(model, optimizer, k, dtype):
    with optimizer.sampled_params(train=True, weight=1.0 + k % DRAWS):
        optimizer.zero_grad()
        x = torch.sin(torch.arange(8.0) + k).reshape(2, 4).to(dtype)
        nn.functional.cross_entropy(model(x), torch.tensor([0, 2])).backward()


def train(parts, start, stop, dtype=torch.float32):
    """Draws number start..stop-1, with a step after every third."""
    model, optimizer, scheduler = parts
    for k in range(start, stop):
        draw(model, optimizer, k, dtype)
        if k % DRAWS == DRAWS - 1:
            optimizer.step()
            scheduler.step()


def through_file(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def assert_same_posterior(left, right):
    for p, q in zip(left[0].parameters(), right[0].parameters(), strict=True):
        assert torch.equal(p, q)
        for name in ("hess", "momentum"):
            assert torch.equal(left[1].state[p][name], right[1].state[q][name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("hess_approx", ["price", "gradsq"])
@pytest.mark.parametrize("cut", [0, 1, 3, 4, 5, 6], ids="after {} draws".format)
def test_resume_from_a_checkpoint(cut, hess_approx, dtype):
    whole = make(dtype, hess_approx)
    train(whole, 0, 9, dtype)

    cut_short = make(dtype, hess_approx)
    train(cut_short, 0, cut, dtype)
    saved = through_file([part.state_dict() for part in cut_short])
    torch.manual_seed(123)  # another process
    resumed = make(dtype, hess_approx)
    resumed[1].seed(99)
    for part, state in zip(resumed, saved, strict=True):
        part.load_state_dict(state)
    train(resumed, cut, 9, dtype)
    assert_same_posterior(whole, resumed)
    train(cut_short, cut, 9, dtype)
    assert_same_posterior(whole, cut_short)  # and saving has not disturbed the training that was saved


def test_loaded_state_is_a_copy():
    parts = make()
    train(parts, 0, 3)
    saved = parts[1].state_dict()
    hess = saved["state"][0]["hess"].clone()
    other = make()
    other[1].load_state_dict(saved)
    train(other, 3, 6)
    assert torch.equal(saved["state"][0]["hess"], hess)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda parts: pickle.loads(pickle.dumps(parts))])
@pytest.mark.parametrize("cut", [0, 3, 4])
def test_copies_continue_alike(cut, clone):
    model, optimizer, _ = make()
    train((model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)), 0, cut)
    twin_model, twin = clone((model, optimizer))
    for m, o in ((model, optimizer), (twin_model, twin)):
        for k in range(cut, 6):
            draw(m, o, k, torch.float32)
        o.step()
    assert_same_posterior((model, optimizer), (twin_model, twin))
    assert twin.hess_approx == optimizer.hess_approx


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda parts: pickle.loads(pickle.dumps(parts))])
def test_copies_of_plain_tensors_continue_too(clone):
    """They are copied with their gradients, those of nn.Parameter are not."""
    weight = torch.ones(3, requires_grad=True)
    optimizer = IVON([weight], lr=0.1, ess=10.0)
    with optimizer.sampled_params(train=True):
        (weight**2).sum().backward()
    optimizer.step()
    copied, twin = clone((weight, optimizer))
    for w, o in ((weight, optimizer), (copied, twin)):
        with o.sampled_params(train=True):
            (w**2).sum().backward()
        o.step()
    assert torch.equal(weight, copied)


def test_state_of_16_bit_parameters_keeps_its_precision():
    parts = make(torch.bfloat16)
    train(parts, 0, 6, torch.bfloat16)
    other = make(torch.bfloat16)
    other[1].load_state_dict(through_file(parts[1].state_dict()))
    for name in ("hess", "momentum", "residual"):
        values = other[1].state[other[0].weight][name]
        assert values.dtype == torch.float32
        assert not torch.equal(values, values.bfloat16().float())


def test_state_of_another_optimizer_is_refused():
    model, optimizer, _ = make()
    groups = [{"params": [model.weight]}, {"params": [model.bias]}]
    with pytest.raises(ValueError, match="not saved by"):
        optimizer.load_state_dict(torch.optim.SGD(groups, lr=0.1).state_dict())


OTHERS = {"hess_approx": "gradsq", "debias": False, "rescale_lr": False}


@pytest.mark.parametrize("changes", [{name: OTHERS[name]} for name in OTHERS] + [OTHERS], ids=str)
def test_a_state_learned_otherwise_says_so(changes):
    def made(**options):
        return IVON([nn.Parameter(torch.ones(3))], lr=0.1, ess=10.0, **options)

    saved = through_file(made(**changes).state_dict())
    optimizer = made()
    with pytest.warns(UserWarning, match="the state that is loaded was learned with") as seen:
        optimizer.load_state_dict(saved)
    assert (len(seen), seen[0].filename) == (1, __file__)
    text = ", ".join(f"{name}={value!r}" for name, value in changes.items())
    assert f"learned with {text}, unlike" in str(seen[0].message)
    assert f"IVON(..., {text})" in str(seen[0].message)
    assert [getattr(optimizer, name) for name in OTHERS] == ["price", True, True]  # it goes on as it was made
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made(**changes).load_state_dict(saved)
        made().load_state_dict(through_file(optimizer.state_dict()))  # which is now learned with what it has
        for group in saved["param_groups"]:
            for name in OTHERS:
                del group[f"learned_with_{name}"]
        made().load_state_dict(saved)  # of an earlier version, which did not note it


def test_a_state_without_a_prior_says_so():
    saved = IVON([nn.Parameter(torch.ones(3))], lr=0.1, ess=10.0, weight_decay=0.0).state_dict()
    with pytest.warns(UserWarning, match="weight_decay is 0 in parameter group 0"):
        IVON([nn.Parameter(torch.ones(3))], lr=0.1, ess=10.0).load_state_dict(saved)


def released_package():
    """Parameters and optimizer as ivon-opt 0.1.3 has saved them (golden/record.py), and ours to load into."""
    saved = torch.load(Path(__file__).parent / "golden" / "ivon_opt_state.pt", weights_only=True)
    params = [nn.Parameter(p) for p in saved["params"]]
    return saved["optimizer"], params, IVON([{"params": params[:2]}, {"params": params[2:]}], lr=9.0, ess=1.0)


def test_state_of_the_released_package_loads():
    saved, params, optimizer = released_package()
    with pytest.warns(UserWarning, match=r"saved by ivon-opt, .* `step` is an estimate, 372") as seen:
        optimizer.load_state_dict(saved)
    assert (len(seen), seen[0].filename) == (1, __file__)
    for group, old in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        for name in ("lr", "ess", "hess_init", "beta1", "beta2", "weight_decay", "clip_radius"):
            assert group[name] == old[name]
        for name in ("hess", "momentum"):
            flat = torch.cat([optimizer.state[p][name].reshape(-1) for p in group["params"]])
            assert torch.equal(flat, old[name])
            assert not torch.equal(flat, torch.full_like(flat, flat[0].item()))
    # The package does not save the number of steps; with momentum there is no bias left to correct.
    assert all(optimizer.state[p]["momentum_weight"] == 1 for p in params)
    assert all(1 - 0.9 ** optimizer.state[p]["step"] == 1 for p in params)
    before = [p.detach().clone() for p in params]
    with optimizer.sampled_params(train=True):
        sum((p**2).sum() for p in params).backward()
    optimizer.step()
    assert all((p != b).all() for p, b in zip(params, before, strict=True))


def test_unfit_states_of_the_released_package_are_refused():
    saved, params, optimizer = released_package()
    between_draws = {**saved, "state": {**saved["state"], "count": 1}}
    with pytest.raises(ValueError, match="after step"):
        optimizer.load_state_dict(between_draws)
    other = IVON([{"params": params[:1]}, {"params": params[1:]}], lr=9.0, ess=1.0)
    with pytest.raises(ValueError, match="another model"):
        other.load_state_dict(saved)
    with pytest.raises(ValueError, match="different number of parameter groups"):
        IVON(params, lr=9.0, ess=1.0).load_state_dict(saved)
