"""Gradients of a scaled loss: division by the scale, and the verdict of GradScaler on overflow.

`GradScaler.step(optimizer)` sets two attributes of an optimizer that has `_step_supports_amp_scaling`:
`found_inf`, and `grad_scale`, which is None when `GradScaler.unscale_` has already divided `p.grad`.
"""

from torch import Tensor

from ivon._state import State


def overflowed(states: list[State], draws: int, found_inf: Tensor) -> bool:
    """Whether a gradient of the step is not finite; GradScaler has looked at that of the last draw only."""
    if draws > 1:
        sums = [state["product_sum"] for state in states if "product_sum" in state]
        return bool(found_inf) or not all(bool(s.isfinite().all()) for s in sums)
    return bool(found_inf)


def unscale(states: list[State], draws: int, hess_approx: str, grad_scale: Tensor | None) -> None:
    """Divide the sums over the draws of a step by the scale of the loss."""
    if grad_scale is None:
        if draws > 1:
            raise RuntimeError(
                f"GradScaler.unscale_ divided the gradient of the last of {draws} draws only; with several "
                f"draws per step call GradScaler.step without unscale_, or use bfloat16, which needs neither"
            )
        return
    factor = 1 / float(grad_scale)
    for state in states:
        if "grad_sum" in state:
            # Not in place: the sum may be the very tensor that the user sees as `p.grad`.
            state["grad_sum"] = state["grad_sum"] * factor
            state["product_sum"] *= factor**2 if hess_approx == "gradsq" else factor
