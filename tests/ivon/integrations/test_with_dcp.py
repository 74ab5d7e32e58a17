"""torch.distributed.checkpoint: states by parameter name, saved in pieces, loaded in place."""

import pytest
import torch
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)

from ivon import IVON

STEPS = 12


def make(task):
    model = task.model()
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.2}]
    return model, task.optimizer(groups)


def save(model, optimizer, folder):
    states = get_state_dict(model, optimizer)
    checkpoint.save(dict(zip(("model", "optimizer"), states, strict=True)), checkpoint_id=folder)


def load(model, optimizer, folder, **options):
    """The documented way: the states of the new model and optimizer say what is to be loaded."""
    states = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
    checkpoint.load(states, checkpoint_id=folder, **options)
    set_state_dict(model, optimizer, model_state_dict=states["model"], optim_state_dict=states["optimizer"])


@pytest.mark.parametrize("steps_before", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled, unavailable or uninitialized")
def test_training_continues_from_a_checkpoint(task, tmp_path, dtype, steps_before):
    """Into an optimizer that has made no step yet, or one of another training."""
    task = type(task)(dtype)
    whole = make(task)
    task.train(*whole)

    half = make(task)
    task.train(*half, range(STEPS // 2))
    save(*half, tmp_path)
    task.train(*half, range(STEPS // 2, STEPS))
    task.assert_same(half[1], whole[1])  # saving has not disturbed it

    resumed = make(task)
    resumed[1].seed(99)
    task.train(*resumed, range(steps_before))
    load(*resumed, tmp_path)
    task.train(*resumed, range(STEPS // 2, STEPS))
    task.assert_same(resumed[1], whole[1])
    task.assert_learned(*resumed, at_most=0.7)


def cycle(task, model, optimizer, steps):
    for k in steps:
        for group in optimizer.param_groups:
            group["betas"] = (0.95 - 0.05 * (k % 5), group["beta2"])
        task.train(model, optimizer, [k])


@pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled, unavailable or uninitialized")
def test_a_cycle_of_beta1_continues(task, tmp_path):
    whole, half, resumed = make(task), make(task), make(task)
    cycle(task, *whole, range(STEPS))
    cycle(task, *half, range(4))
    save(*half, tmp_path)
    load(*resumed, tmp_path)
    cycle(task, *resumed, range(4, STEPS))
    task.assert_same(resumed[1], whole[1])


@pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled, unavailable or uninitialized")
def test_a_checkpoint_of_an_earlier_version_is_loaded_in_part(task, tmp_path):
    """It lacks entries, which PyTorch has to be told may be missing."""
    whole, half, resumed = make(task), make(task), make(task)
    task.train(*whole)
    task.train(*half, range(STEPS // 2))
    model, optimizer = get_state_dict(*half)
    for state in optimizer["state"].values():
        del state["momentum_weight"]
    for group in optimizer["param_groups"]:
        for name in [name for name in group if name.startswith("learned") or "betas" in name]:
            del group[name]
    checkpoint.save({"model": model, "optimizer": optimizer}, checkpoint_id=tmp_path)
    load(*resumed, tmp_path, planner=checkpoint.DefaultLoadPlanner(allow_partial_load=True))
    task.train(*resumed, range(STEPS // 2, STEPS))
    task.assert_same(resumed[1], whole[1])


def test_asking_a_new_optimizer_for_its_state_changes_nothing(task):
    """PyTorch makes a step with gradients of zero and a learning rate of zero to see the state."""
    model, optimizer = make(task)
    before = [p.detach().clone() for p in model.parameters()]
    state = get_optimizer_state_dict(model, optimizer)
    assert set(state["state"]) == {name for name, _ in model.named_parameters()}
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert {group["lr"] for group in optimizer.param_groups} == {1.0, 0.2}
    task.train(model, optimizer)
    other = make(task)
    task.train(*other)
    task.assert_same(optimizer, other[1])


@pytest.mark.parametrize(
    "options", [{"full_state_dict": True, "cpu_offload": True}, {"flatten_optimizer_state_dict": True}]
)
def test_options_of_the_state_dict(task, options):
    """Whole on the host; or flat, every setting of a group repeated for every parameter."""
    options = StateDictOptions(**options)
    whole = make(task)
    task.train(*whole, range(STEPS // 2))
    saved = get_state_dict(*whole, options=options)
    resumed = make(task)
    set_state_dict(*resumed, model_state_dict=saved[0], optim_state_dict=saved[1], options=options)
    for parts in (whole, resumed):
        task.train(*parts, range(STEPS // 2, STEPS))
    task.assert_same(resumed[1], whole[1])


def test_frozen_parameters_have_no_state(task):
    model = task.model()
    model[0].requires_grad_(False)
    optimizer = task.optimizer(model)
    task.train(model, optimizer, range(STEPS // 2))
    saved = get_optimizer_state_dict(model, optimizer)
    assert set(saved["state"]) == {"2.weight", "2.bias"}
    twin = task.model()
    twin[0].requires_grad_(False)
    twin.load_state_dict(model.state_dict())
    resumed = IVON(twin.parameters(), lr=9.0, ess=1.0)
    set_optimizer_state_dict(twin, resumed, saved)
    task.train(model, optimizer, range(STEPS // 2, STEPS))
    task.train(twin, resumed, range(STEPS // 2, STEPS))
    task.assert_same(resumed, optimizer)
    assert nn.utils.parameters_to_vector(twin.parameters()).isfinite().all()
