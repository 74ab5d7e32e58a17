"""A beta1 that changes: the debiased momentum is the weighted mean of the gradients, whatever it was."""

import copy
import io
import math

import pytest
import torch
from torch import nn

from ivon import IVON, diagnose
from ivon._state import state_dtype

# Sequences of beta1: cycled, constant at times, 0 and close to 1, risen once the bias was over.
BETAS = {
    "one cycle": [0.95 - 0.1 * math.sin(math.pi * k / 11) for k in range(12)],
    "two levels": [0.9] * 4 + [0.5] * 3 + [0.9] * 4,
    "nothing kept": [0.9, 0.0, 0.99, 0.999, 0.9, 0.0],
    "from 0": [0.0, 0.0, 0.9, 0.9],
    "risen late": [0.1] * 20 + [0.999] * 5,
    "constant": [0.9] * 6,
}
SETTINGS = {"lr": 0.1, "ess": 1e6, "hess_init": 0.5, "weight_decay": 0.01, "beta2": 1 - 1e-12}  # h stays


def gradient(k):
    return math.sin(1 + 2 * k)


def weighted_mean(betas, grads):
    """Of gradients with the weights that a momentum gives them, in the words of its definition."""
    weights = [(1 - beta) * math.prod(betas[i + 1 :]) for i, beta in enumerate(betas)]
    return sum(w * g for w, g in zip(weights, grads, strict=True)) / sum(weights)


def means(betas, steps):
    """The path of a mean that makes the steps of these numbers, by the formulae of lines 3, 5 and 6."""
    m, path, seen = 1.0, [], []
    for k, beta1 in enumerate(betas):
        if k in steps:
            seen.append((beta1, gradient(k)))
            m -= SETTINGS["lr"] * (weighted_mean(*map(list, zip(*seen, strict=True))) + 0.01 * m)
        path.append(m)
    return path


def make(dtype=torch.float64, **options):
    params = [nn.Parameter(torch.ones(3, dtype=dtype)) for _ in range(2)]
    return params, IVON(params, **{**SETTINGS, **options})


def step(params, optimizer, k, steps_of, draws=1):
    """Step number k of those parameters that make it."""
    for _ in range(draws):
        with optimizer.sampled_params(train=True):
            for p, steps in zip(params, steps_of, strict=True):
                p.grad = torch.full_like(p, gradient(k)) if k in steps else None
    optimizer.step()


SET = {
    "beta1": lambda group, beta1: group.update(beta1=beta1),
    "betas": lambda group, beta1: group.update(betas=(beta1, *group["betas"][1:])),
}


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(("name", "draws"), [("beta1", 2), ("betas", 1)])
@pytest.mark.parametrize(
    ("dtype", "capturable"), [(torch.float64, False), (torch.float32, False), (torch.float64, True)], ids=str
)
@pytest.mark.parametrize("betas", BETAS.values(), ids=BETAS)
def test_steps_follow_the_weighted_mean_of_the_gradients(betas, dtype, capturable, draws, name):
    params, optimizer = make(dtype, capturable=capturable)
    steps_of = [set(range(len(betas))), set(range(0, len(betas), 2))]  # the second misses every other step
    expected = [means(betas, steps) for steps in steps_of]
    tolerance = 1e-6 if dtype == torch.float64 else 1e-5  # 1 - beta2 lets h move a little
    for k, beta1 in enumerate(betas):
        SET[name](optimizer.param_groups[0], beta1)
        step(params, optimizer, k, steps_of, draws)
        for p, path in zip(params, expected, strict=True):
            assert p.tolist() == pytest.approx([path[k]] * 3, rel=tolerance, abs=tolerance)
            state = optimizer.state[p]
            assert state["momentum"].dtype is state_dtype(p)


def test_memory_is_two_numbers_for_each_weight():
    p = nn.Parameter(torch.ones(1000))
    optimizer = IVON([p], lr=0.1, ess=10.0)
    for k, beta1 in enumerate((0.9, 0.8, 0.85)):
        optimizer.param_groups[0]["beta1"] = beta1
        step([p], optimizer, k, [{k}])
    tensors = [x for x in optimizer.state_dict()["state"][0].values() if isinstance(x, torch.Tensor)]
    assert sum(tensor.nbytes for tensor in tensors) == 8 * p.numel()


def test_a_constant_beta1_gives_the_power_to_the_last_bit():
    """Given in whatever way, and also where it was set to what it was."""
    paths = []
    for way in range(3):
        params, optimizer = make(betas=(0.8, SETTINGS["beta2"])) if way == 2 else make(beta1=0.8)
        optimizer.seed(1)
        for k in range(40):
            if way == 1:
                SET["betas" if k % 2 else "beta1"](optimizer.param_groups[0], 0.8)
            step(params, optimizer, k, [{k}, {k}])
        assert optimizer.state[params[0]]["momentum_weight"] == 1 - 0.8**40
        paths.append(params[0].detach())
    assert torch.equal(paths[0], paths[1])
    assert torch.equal(paths[0], paths[2])


def saved_and_loaded(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("capturable", [True, False])
@pytest.mark.parametrize("way", ["load", "copy"])
@pytest.mark.parametrize("cut", [1, 4, 6])
def test_a_cycle_continues_from_a_checkpoint(cut, way, capturable):
    betas = BETAS["two levels"]

    def go(params, optimizer, numbers):
        for k in numbers:
            optimizer.param_groups[0]["betas"] = (betas[k], SETTINGS["beta2"])
            step(params, optimizer, k, [set(range(99)), {0, 3, 7}])

    params, optimizer = make(capturable=capturable)
    optimizer.seed(1)
    go(params, optimizer, range(cut))
    if way == "load":
        others, other = make(beta1=0.3, capturable=capturable)
        for p, q in zip(others, params, strict=True):
            p.data.copy_(q.data)
        other.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    else:
        others, other = copy.deepcopy((params, optimizer))
    for run in ((params, optimizer), (others, other)):
        go(*run, range(cut, len(betas)))
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)


def test_a_checkpoint_of_a_time_without_the_weight_of_the_momentum_loads():
    """And one without `betas`: what it says of beta1 holds."""
    params, optimizer = make(beta1=0.8)
    for k in range(3):
        step(params, optimizer, k, [{k}, {0}])
    saved = saved_and_loaded(optimizer.state_dict())
    for state in saved["state"].values():
        del state["momentum_weight"]
    (group,) = saved["param_groups"]
    known = ("params", "lr", "ess", "hess_init", "beta1", "beta2", "weight_decay", "clip_radius")
    samplings = ("noise_seed", "noise_train_draws", "noise_test_draws", "summed_draws", "summed_weight")
    saved["param_groups"] = [{name: group[name] for name in (*known, *samplings, "hess_weight_decay")}]
    others, other = make(beta1=0.3)
    other.load_state_dict(saved)
    assert other.param_groups[0]["betas"] == (0.8, SETTINGS["beta2"])
    assert [other.state[p]["momentum_weight"] for p in others] == [1 - 0.8**3, 1 - 0.8]


def test_what_was_set_last_holds():
    params, optimizer = make()
    group = optimizer.param_groups[0]
    pairs = []
    for change in (
        {"beta1": 0.5},
        {"betas": [0.6, 0.7]},
        {"beta2": 0.8},
        {"betas": (0.1, 0.2), "beta1": 0.3},
    ):
        group.update(change)
        step(params, optimizer, 0, [{0}, {0}])
        assert group["betas"] == (group["beta1"], group["beta2"])
        pairs.append(group["betas"])
    assert pairs == [(0.5, SETTINGS["beta2"]), (0.6, 0.7), (0.6, 0.8), (0.1, 0.2)]


def test_a_beta1_that_cannot_be_is_refused_where_a_scheduler_sets_it():
    params, optimizer = make()
    optimizer.param_groups[0]["betas"] = (1.0, 0.99)
    with pytest.raises(ValueError, match=r"beta1 must be a number in \[0, 1\), got 1.0"):
        step(params, optimizer, 0, [{0}, {0}])


def test_diagnosis_divides_by_the_weight():
    """Of gradients of one size, steps are clipped from that size on, whatever beta1 did."""
    for radius, share in ((0.99, 1.0), (1.01, 0.0)):
        p = nn.Parameter(torch.zeros(50, dtype=torch.float64))
        optimizer = IVON([p], **{**SETTINGS, "hess_init": 1.0, "weight_decay": 1e-9}, clip_radius=radius)
        for beta1 in (0.9, 0.99, 0.5):
            optimizer.param_groups[0]["beta1"] = beta1
            with optimizer.sampled_params(train=True):
                p.grad = torch.ones_like(p)
            optimizer.step()
        assert diagnose(optimizer).total.clipped == share
