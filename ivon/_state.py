"""What the optimizer remembers about one parameter, and lists of parameters that can be treated together."""

from collections import defaultdict
from collections.abc import Hashable, MutableMapping
from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from ivon._kernels import hess_floor
from ivon._shards import local
from ivon._stretches import is_dense

State = dict[str, Any]  # of one parameter
States = MutableMapping[Tensor, State]  # of all parameters; a missing one is there when asked for
# In a state, with `capturable`: numbers on the device that take over from those on the host.
COUNT, COUNT_WEIGHT = "count", "count_weight"
ON_DEVICE = {"step": COUNT, "momentum_weight": COUNT_WEIGHT}
PER_ENTRY = ("hess", "momentum", "residual")  # in a state: tensors shaped like the parameter
SUMS = ("grad_sum", "product_sum")  # too, between the draws of a step
Group = dict[str, Any]  # torch.optim's parameter group
# In a group: its weight_decay at the last draw or step, for which h + weight_decay is positive.
DECAY = "hess_weight_decay"

# Lists are looked at through `map`, which takes half the time of a comprehension: models have many tensors.
kind = attrgetter("device", "dtype")  # parameters of one kind may share a call
SHAPE = attrgetter("shape")


def state_dtype(param: Tensor) -> torch.dtype:
    """float64 for float64 parameters, else float32: with beta2 near 1 a 16-bit Hessian would never move."""
    return torch.float64 if param.dtype == torch.float64 else torch.float32


def new_state(param: Tensor, hess_init: float) -> State:
    """State before the first step: h = h0 and g = 0, laid out in memory like the parameter.

    `momentum_weight` is the total weight that the momentum g gives to gradients, 1 - the product of the
    beta1 of all steps: g / momentum_weight is their weighted mean.

    `residual` exists for 16-bit parameters only: the part of the mean that they cannot hold,
    so that the mean is `param + residual` and small steps are not lost to rounding.
    """
    with torch.inference_mode(False):  # a model may be evaluated there before it is trained
        like = torch.empty_like(param, dtype=state_dtype(param), requires_grad=False)
        state: State = {
            "step": 0,
            "momentum_weight": 0.0,
            "hess": torch.full_like(like, hess_init),
            "momentum": torch.zeros_like(like),
        }
        if param.dtype != like.dtype:
            state["residual"] = torch.zeros_like(like)
    return state


def fits(state: State, param: Tensor) -> bool:
    """Whether the state is of the shape, of the dtype and on the device that the parameter asks for."""
    hess = state["hess"]
    return (
        hess.shape == param.shape
        and hess.dtype is state_dtype(param)
        and hess.device == param.device
        and ("residual" in state) == (param.dtype != hess.dtype)
    )


def follow(state: State, param: Tensor) -> None:
    """Take the state after a parameter that was moved or converted.

    A residual goes with the rounding that it belonged to: the mean is what is now seen in the parameter. If
    only its layout in memory is another, the residual stays.
    """
    if not fits(state, param):
        state.pop("residual", None)
    for name, value in state.items():
        if name in ON_DEVICE.values():
            state[name] = value.to(param.device)
        elif name in (*PER_ENTRY, *SUMS):
            if value.shape != param.shape:
                raise RuntimeError(
                    f"a parameter of shape {tuple(param.shape)} has {name} of shape {tuple(value.shape)}: "
                    f"was it resized? Make a new optimizer"
                )
            with torch.inference_mode(False):
                state[name] = like_param(value, param)
    if param.dtype != state_dtype(param) and "residual" not in state:
        with torch.inference_mode(False):
            state["residual"] = torch.zeros_like(state["hess"])


def like_param(value: Tensor, param: Tensor) -> Tensor:
    """A copy of an entry of a state: on the parameter's device, laid out like it, in the dtype of states."""
    return torch.empty_like(param, dtype=state_dtype(param), requires_grad=False).copy_(value)


def states_of(params: list[Tensor], group: Group, states: States) -> list[State]:
    """The states of parameters of one group and kind, made or adapted where that is needed."""
    found = [states[param] for param in params]
    if all_fit(found, params) and _all_lie_like(found, params):
        return found
    for state, param in zip(found, params, strict=True):
        if "hess" not in state:
            state.update(new_state(param, group["hess_init"]))
        elif not fits(state, param) or (state["hess"].stride() != param.stride() and is_dense(param)):
            follow(state, param)
    return found


def _all_lie_like(states: list[State], params: list[Tensor]) -> bool:
    """Whether the states lie in memory like their parameters; strides take longer to ask for."""
    hess = [state["hess"] for state in states]
    if all(map(Tensor.is_contiguous, chain(hess, params))):
        return True
    return list(map(Tensor.stride, hess)) == list(map(Tensor.stride, params))


def all_fit(states: list[State], params: list[Tensor]) -> bool:
    """Whether the states are there, and fit these parameters, which are of one kind."""
    dtype = state_dtype(params[0])
    with_residuals = sum("residual" in state for state in states)
    if not all("hess" in state for state in states):
        return False
    hess = [state["hess"] for state in states]
    return (
        set(map(kind, hess)) == {(params[0].device, dtype)}
        and with_residuals == (0 if params[0].dtype is dtype else len(states))
        and list(map(SHAPE, hess)) == list(map(SHAPE, params))
    )


def states_of_groups(groups: list[Group], states: States) -> list[tuple[Group, list[Tensor], list[State]]]:
    """The trainable parameters by group and kind, and their states, made or adapted where that is needed."""
    parts = [(group, params) for group in groups for params in alike(trainable(group))]
    return [(group, params, states_of(params, group, states)) for group, params in parts]


def has_fallen(group: Group) -> bool:
    """Whether weight_decay is smaller than at the last draw or step."""
    return group["weight_decay"] < group.get(DECAY, 0.0)


def follow_decay(groups: list[Group], states: States) -> None:
    """Take the Hessians after weight_decay where that has fallen; before a draw, or its use."""
    for group in groups:
        if has_fallen(group):
            for param in group["params"]:
                if "hess" in (state := states.get(param, {})):
                    hess = local(state["hess"])
                    hess.copy_(after_decay(hess, group))
        group[DECAY] = group["weight_decay"]


def after_decay(hess: Tensor, group: Group) -> Tensor:
    """h for the weight_decay that there is now.

    h may be negative, down to -weight_decay, so h + weight_decay would not stay positive where weight_decay
    has fallen. Where h is negative the sum stays what it was.
    """
    if not has_fallen(group):
        return hess
    now = group["weight_decay"]
    kept = torch.where(hess < 0, hess + (group[DECAY] - now), hess)
    return kept.clamp_min_(hess_floor(now, hess.dtype))


def momentum_weight(state: State, beta1: float) -> float:
    """That of a state; without the entry, as in a state of an earlier version, all steps had this beta1."""
    return state.get("momentum_weight") or 1 - beta1 ** state["step"]


def next_momentum_weight(state: State, beta1: float) -> float:
    """The same after one more step. Where all steps have one beta1 it is 1 - beta1^t to the last bit."""
    weight, step = momentum_weight(state, beta1), state["step"]
    if weight == 1 - beta1**step:
        return 1 - beta1 ** (step + 1)
    return beta1 * weight + (1 - beta1)


def is_counted(state: Any) -> bool:
    """Whether it is the state of a parameter whose steps are counted on the device."""
    return isinstance(state, dict) and COUNT_WEIGHT in state


def has_residuals(states: list[State]) -> bool:
    """Whether the states are those of 16-bit parameters; they are of one kind."""
    return "residual" in states[0]


def trainable(group: Group) -> list[Tensor]:
    """The parameters of a group that are not frozen."""
    return [param for param in group["params"] if param.requires_grad]


def alike(params: list[Tensor]) -> list[list[Tensor]]:
    """The parameters in lists of one kind, in order of appearance."""
    kinds = list(map(kind, params))
    if len(set(kinds)) == 1:
        return [params]
    lists: dict[Hashable, list[Tensor]] = defaultdict(list)
    for param, of_kind in zip(params, kinds, strict=True):
        lists[of_kind].append(param)
    return list(lists.values())
