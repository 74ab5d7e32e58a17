"""What the optimizer remembers about one parameter, and lists of parameters for `_foreach` calls."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor

State = dict[str, Any]  # of one parameter
Group = dict[str, Any]  # torch.optim's parameter group


def state_dtype(param: Tensor) -> torch.dtype:
    """float64 for float64 parameters, else float32: with beta2 near 1 a 16-bit Hessian would never move."""
    return torch.float64 if param.dtype == torch.float64 else torch.float32


def new_state(param: Tensor, hess_init: float) -> State:
    """State before the first step: h = h0 and g = 0, laid out in memory like the parameter.

    `residual` exists for 16-bit parameters only: the part of the mean that they cannot hold,
    so that the mean is `param + residual` and small steps are not lost to rounding.
    """
    with torch.inference_mode(False):  # a model may be evaluated there before it is trained
        like = torch.empty_like(param, dtype=state_dtype(param), requires_grad=False)
        state: State = {
            "step": 0,
            "hess": torch.full_like(like, hess_init),
            "momentum": torch.zeros_like(like),
        }
        if param.dtype != like.dtype:
            state["residual"] = torch.zeros_like(like)
    return state


def residuals_of(states: list[State]) -> list[Tensor] | None:
    """The residuals of parameters of one kind, if they have any."""
    return [state["residual"] for state in states] if "residual" in states[0] else None


def trainable(group: Group) -> list[Tensor]:
    """The parameters of a group that are not frozen."""
    return [param for param in group["params"] if param.requires_grad]


def kind(param: Tensor) -> Hashable:
    """Parameters of one kind may share a `_foreach` call."""
    return param.device, param.dtype


def alike(params: Iterable[Tensor], key: Callable[[Tensor], Hashable] = kind) -> list[list[Tensor]]:
    """The parameters in lists of equal `key`, in order of appearance."""
    lists: dict[Hashable, list[Tensor]] = defaultdict(list)
    for param in params:
        lists[key(param)].append(param)
    return list(lists.values())
