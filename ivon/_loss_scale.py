"""Gradients of a scaled loss: division by the scale, and the verdict of GradScaler on overflow.

`GradScaler.step(optimizer)` sets two attributes of an optimizer that has `_step_supports_amp_scaling`:
`found_inf`, and `grad_scale`, which is None when `GradScaler.unscale_` has already divided `p.grad` (after
several draws their average).
"""

import torch

from ivon import _captured, _distributed
from ivon._state import State


def unscale_sums(optimizer: object, states: list[State], hess_approx: str, sync: bool) -> bool:
    """Divide the sums over draws by the loss scale; False if the step overflowed: skip it.

    Nothing happens when no GradScaler has called the step.
    """
    found_inf = getattr(optimizer, "found_inf", None)
    if not isinstance(found_inf, torch.Tensor):
        return True
    if _captured.is_capturing():
        raise RuntimeError("a CUDA graph cannot skip steps, as GradScaler wants to: use bfloat16")
    overflow = bool(found_inf)
    if sync:
        overflow = _distributed.on_any_rank(overflow, found_inf.device)
    if overflow:
        return False
    grad_scale = getattr(optimizer, "grad_scale", None)
    if grad_scale is not None:
        _divide(states, 1 / float(grad_scale), hess_approx)
    return True


def _divide(states: list[State], factor: float, hess_approx: str) -> None:
    for state in states:
        if "grad_sum" in state:
            # Not in place: the sum may be the very tensor that the user sees as `p.grad`.
            state["grad_sum"] = state["grad_sum"] * factor
            state["product_sum"] *= factor if hess_approx == "price" else factor**2
