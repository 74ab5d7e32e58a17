"""Hooks of torch.optim.Optimizer do with IVON what they do with AdamW."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ivon import IVON

KINDS = {
    "AdamW": lambda params: torch.optim.AdamW(params, lr=0.1),
    "IVON": lambda params: IVON(params, lr=0.1, ess=10.0, mc_samples=1),
}
MOMENT = {"AdamW": "exp_avg", "IVON": "momentum"}


def make(kind, names="ab"):
    """Parameters by name, all of one shape, and their optimizer."""
    params = {name: nn.Parameter(torch.ones(3)) for name in names}
    return params, KINDS[kind](list(params.items()))


def closure_of(params, optimizer, scale=1.0):
    def closure():
        optimizer.zero_grad()
        loss = scale * sum((ord(name) - 96) * p.sum() for name, p in params.items())
        loss.backward()
        return loss

    return closure


def trained(kind, names="ab"):
    params, optimizer = make(kind, names)
    optimizer.step(closure_of(params, optimizer))
    return params, optimizer


def moments(kind, params, optimizer):
    """The first entry of each parameter's momentum, which is (1 - beta1) times 1 for a, 2 for b, ..."""
    return {name: round(optimizer.state[p][MOMENT[kind]][0].item(), 4) for name, p in params.items()}


def by_name(state_dict, names):
    """The same for parameters in the order of `names`."""
    (group,) = state_dict["param_groups"]
    of = dict(zip(group["param_names"], group["params"], strict=True))
    params = list(range(len(names)))
    return {
        "state": {i: state_dict["state"][of[name]] for i, name in zip(params, names, strict=True)},
        "param_groups": [{**group, "params": params, "param_names": list(names)}],
    }


def load_pre_hook_that_reorders(kind):
    saved = trained(kind, "ab")[1].state_dict()
    params, optimizer = make(kind, "ba")
    optimizer.register_load_state_dict_pre_hook(lambda o, s: by_name(s, o.param_groups[0]["param_names"]))
    optimizer.load_state_dict(saved)
    return moments(kind, params, optimizer)


def load_pre_hook_in_place(kind):
    saved = trained(kind)[1].state_dict()
    params, optimizer = make(kind)

    def swap(_, state_dict):
        state_dict["state"] = {0: state_dict["state"][1], 1: state_dict["state"][0]}

    optimizer.register_load_state_dict_pre_hook(swap)
    optimizer.load_state_dict(saved)
    return moments(kind, params, optimizer), list(saved["state"])  # the caller's dict is as it was


def load_pre_hooks_in_turn(kind):
    saved = trained(kind)[1].state_dict()
    _, optimizer = make(kind)

    def note(text):
        def hook(_, state_dict):
            lr = state_dict["param_groups"][0]["lr"]
            groups = [{**group, "lr": f"{lr} {text}"} for group in state_dict["param_groups"]]
            return {**state_dict, "param_groups": groups}

        return hook

    def number(_, state_dict):
        words = state_dict["param_groups"][0]["lr"]
        return {
            **state_dict,
            "param_groups": [{**state_dict["param_groups"][0], "lr": len(words), "was": words}],
        }

    optimizer.register_load_state_dict_pre_hook(note("second"))
    optimizer.register_load_state_dict_pre_hook(note("first"), prepend=True)
    optimizer.register_load_state_dict_pre_hook(note("removed")).remove()
    optimizer.register_load_state_dict_pre_hook(number)
    optimizer.load_state_dict(saved)
    return optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["was"]


def load_pre_hook_that_raises(kind):
    saved = trained(kind)[1].state_dict()
    params, optimizer = trained(kind)
    optimizer.state[params["a"]][MOMENT[kind]].fill_(9)

    def refuse(*_):
        raise KeyError("refused")

    handle = optimizer.register_load_state_dict_pre_hook(refuse)
    with pytest.raises(KeyError, match="refused"):
        optimizer.load_state_dict(saved)
    unchanged = moments(kind, params, optimizer)
    handle.remove()
    optimizer.load_state_dict(saved)
    return unchanged, moments(kind, params, optimizer)


def load_post_hook_whose_changes_stay(kind):
    saved = trained(kind)[1].state_dict()
    params, optimizer = trained(kind)
    seen = []

    def change(o):
        seen.append(moments(kind, params, o))
        o.state[params["a"]][MOMENT[kind]].fill_(7)  # what is there
        o.state[params["b"]][MOMENT[kind]] = torch.full((3,), 8.0)  # another
        o.param_groups[0] |= {"lr": 0.5, "mine": "x"}

    optimizer.register_load_state_dict_post_hook(change)
    optimizer.load_state_dict(saved)
    group = optimizer.param_groups[0]
    return seen, moments(kind, params, optimizer), group["lr"], group["mine"]


def load_post_hooks_in_turn(kind):
    saved = trained(kind)[1].state_dict()
    _, optimizer = make(kind)
    seen = []
    for name, prepend in (("second", False), ("third", False), ("first", True)):
        optimizer.register_load_state_dict_post_hook(lambda _, n=name: seen.append(n), prepend=prepend)
    optimizer.load_state_dict(saved)
    optimizer.load_state_dict(saved)
    return seen


def load_post_hook_that_saves(kind):
    saved = trained(kind)[1].state_dict()
    _, optimizer = make(kind)
    seen = []
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append(sorted(o.state_dict()["state"])))
    optimizer.load_state_dict(saved)
    return seen


def state_dict_pre_hook(kind):
    params, optimizer = trained(kind)

    def change(o):
        o.param_groups[0] |= {"lr": 0.7, "mine": "x"}
        o.state[params["a"]][MOMENT[kind]].fill_(7)
        o.state[params["b"]]["own"] = torch.tensor(3.0)

    optimizer.register_state_dict_pre_hook(change)
    saved = optimizer.state_dict()
    (group,) = saved["param_groups"]
    moment = saved["state"][0][MOMENT[kind]].tolist()
    return group["lr"], group["mine"], moment, saved["state"][1]["own"].item()


def state_dict_pre_hook_that_steps(kind):
    params, optimizer = make(kind)
    optimizer.register_state_dict_pre_hook(lambda o: o.step(closure_of(params, o)) and None)
    saved = optimizer.state_dict()
    return [int(state["step"]) for state in saved["state"].values()]


def state_dict_post_hook_in_place(kind):
    _, optimizer = trained(kind)

    def change(_, state_dict):
        state_dict["mine"] = "x"
        state_dict["param_groups"][0]["lr"] = 0.7
        del state_dict["state"][1]

    optimizer.register_state_dict_post_hook(change)
    saved = optimizer.state_dict()
    return (
        sorted(saved),
        sorted(saved["state"]),
        saved["param_groups"][0]["lr"],
        optimizer.param_groups[0]["lr"],
    )


def state_dict_post_hooks_that_return_other_dicts(kind):
    _, optimizer = trained(kind)
    optimizer.register_state_dict_post_hook(lambda _, s: {"outer": s})
    optimizer.register_state_dict_post_hook(lambda _, s: {"inner": sorted(s["state"])}, prepend=True)
    return optimizer.state_dict()


def state_dict_post_hook_by_name_and_back(kind):
    """States by the parameters' names, as in torch's documentation, saved and loaded."""

    def names(_, state_dict):
        (group,) = state_dict["param_groups"]
        return {
            "by_name": {n: state_dict["state"][i] for i, n in enumerate(group["param_names"])},
            "g": group,
        }

    def numbers(o, given):
        wanted = o.param_groups[0]["param_names"]
        state = {i: given["by_name"][name] for i, name in enumerate(wanted)}
        return {"state": state, "param_groups": [{**given["g"], "param_names": wanted}]}

    _, optimizer = trained(kind, "ab")
    optimizer.register_state_dict_post_hook(names)
    params, other = make(kind, "ba")
    other.register_load_state_dict_pre_hook(numbers)
    other.load_state_dict(optimizer.state_dict())
    return moments(kind, params, other)


def entries_of_hooks_come_back(kind):
    """Of any shape, in states and beside them."""
    params, optimizer = trained(kind)

    def add(o):
        o.state[params["a"]] |= {"norm": torch.tensor(2.0), "history": torch.ones(5)}
        o.state |= {"shared": {"count": 3}, "number": 4}

    optimizer.register_state_dict_pre_hook(add)
    saved = copy.deepcopy(optimizer.state_dict())
    other_params, other = trained(kind)
    other.load_state_dict(saved)
    other.step(closure_of(other_params, other))
    state = other.state[other_params["a"]]
    return state["norm"].tolist(), state["history"].tolist(), other.state["shared"], other.state["number"]


def step_pre_hook_that_exchanges_the_closure(kind):
    params, optimizer = make(kind)
    seen = []

    def exchange(o, args, kwargs):
        seen.append((o is optimizer, len(args), sorted(kwargs)))
        return (args[0], closure_of(params, o, scale=3.0)), {}

    optimizer.register_step_pre_hook(exchange)
    optimizer.step(closure_of(params, optimizer))
    return seen, moments(kind, params, optimizer)


def step_hooks_in_turn(kind):
    params, optimizer = make(kind)
    seen = []

    def state(o):
        return len(o.state)

    def note(name):
        return lambda o, args, kwargs: seen.append((name, state(o)))

    optimizer.register_step_pre_hook(note("before"))
    optimizer.register_step_pre_hook(note("next"))
    optimizer.register_step_post_hook(note("after"))
    optimizer.register_step_post_hook(note("removed")).remove()
    with (
        register_optimizer_step_pre_hook(note("before all")),
        register_optimizer_step_post_hook(note("after all")),
    ):
        optimizer.step(closure_of(params, optimizer))
    return seen


def step_post_hook_whose_changes_stay(kind):
    params, optimizer = make(kind)

    def change(o, args, kwargs):
        params["a"].data.fill_(7)
        o.state[params["b"]][MOMENT[kind]].fill_(8)

    optimizer.register_step_post_hook(change)
    optimizer.step(closure_of(params, optimizer))
    return params["a"].tolist(), moments(kind, params, optimizer)["b"]


ONE_STEP = {"a": 0.1, "b": 0.2}
SCENARIOS = {
    load_pre_hook_that_reorders: ONE_STEP,
    load_pre_hook_in_place: ({"a": 0.2, "b": 0.1}, [0, 1]),
    load_pre_hooks_in_turn: (16, "0.1 first second"),
    load_pre_hook_that_raises: ({"a": 9.0, "b": 0.2}, ONE_STEP),
    load_post_hook_whose_changes_stay: ([ONE_STEP], {"a": 7.0, "b": 8.0}, 0.5, "x"),
    load_post_hooks_in_turn: ["first", "second", "third"] * 2,
    load_post_hook_that_saves: [[0, 1]],
    state_dict_pre_hook: (0.7, "x", [7.0] * 3, 3.0),
    state_dict_pre_hook_that_steps: [1, 1],
    state_dict_post_hook_in_place: (["mine", "param_groups", "state"], [0], 0.7, 0.1),
    state_dict_post_hooks_that_return_other_dicts: {"outer": {"inner": [0, 1]}},
    state_dict_post_hook_by_name_and_back: ONE_STEP,
    entries_of_hooks_come_back: (2.0, [1.0] * 5, {"count": 3}, 4),
    step_pre_hook_that_exchanges_the_closure: ([(True, 2, [])], {"a": 0.3, "b": 0.6}),
    step_hooks_in_turn: [("before all", 0), ("before", 0), ("next", 0), ("after", 2), ("after all", 2)],
    step_post_hook_whose_changes_stay: ([7.0] * 3, 8.0),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_hook(scenario, kind):
    assert scenario(kind) == SCENARIOS[scenario]


def draw(params, optimizer, k):
    with optimizer.sampled_params(train=True, weight=1.0 + k % 3):
        sum(torch.sin((k + 1) * p).sum() for p in params).backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("capturable", [True, False])
def test_a_step_half_done_goes_through_hooks_to_the_bit(dtype, capturable):
    """Sums, noise and what 16-bit parameters cannot hold, in a dict that hooks have made anew."""

    def make():
        params = [nn.Parameter(torch.full((4,), v, dtype=dtype)) for v in (1.0, 2.0)]
        optimizer = IVON(params, lr=0.1, ess=10.0, beta2=0.9, capturable=capturable)
        optimizer.seed(1)
        return params, optimizer

    whole, whole_optimizer = make()
    cut, cut_optimizer = make()
    for k in range(4):
        for params, optimizer in ((whole, whole_optimizer), (cut, cut_optimizer)):
            draw(params, optimizer, k)
            if k == 1:
                optimizer.step()
    cut_optimizer.register_state_dict_post_hook(lambda _, s: {"kept": copy.deepcopy(s)})
    saved = cut_optimizer.state_dict()
    assert all(set(state) >= {"grad_sum", "step"} for state in saved["kept"]["state"].values())
    assert all("count" not in state for state in saved["kept"]["state"].values())

    params, optimizer = make()
    optimizer.seed(99)
    optimizer.register_load_state_dict_pre_hook(lambda _, s: s["kept"])
    optimizer.load_state_dict(saved)
    for p, q in zip(params, cut, strict=True):
        p.data.copy_(q.data)
    for run in ((whole, whole_optimizer), (params, optimizer)):
        draw(*run, 4)
        run[1].step()
    for p, q in zip(params, whole, strict=True):
        assert torch.equal(p, q)
        for name in ("hess", "momentum"):
            assert torch.equal(optimizer.state[p][name], whole_optimizer.state[q][name])


def test_a_load_that_fails_leaves_a_step_half_done_as_it_is():
    params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))]
    optimizer = IVON(params, lr=0.1, ess=10.0)
    draw(params, optimizer, 0)
    of_two_groups = IVON([{"params": [nn.Parameter(torch.ones(2))]} for _ in params], lr=0.1, ess=10.0)
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optimizer.load_state_dict(of_two_groups.state_dict())
    optimizer.step()
    assert (optimizer.state[params[0]]["momentum"] != 0).all()


def test_an_incomplete_state_made_by_a_hook_is_refused():
    _, optimizer = trained("IVON")
    saved = optimizer.state_dict()
    optimizer.register_load_state_dict_pre_hook(lambda _, s: s["state"][0].pop("step") and None)
    with pytest.raises(ValueError, match="no 'step' for parameter 0"):
        optimizer.load_state_dict(saved)
