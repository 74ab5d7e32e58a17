"""Lines 2 to 6 of Algorithm 1 for lists of tensors; `reference.py` says the same in the paper's letters."""

import math
from functools import cache

import torch
from torch import Tensor

from ivon import _foreach as foreach
from ivon._state import Group, State, residuals_of


def update(
    params: list[Tensor],
    states: list[State],
    group: Group,
    weight: float,
    *,
    hess_approx: str,
    debias: bool,
    rescale_lr: bool,
) -> None:
    """One step of parameters of one kind that have made equally many steps, from sums of total `weight`.

    `product_sum` is consumed; `grad_sum` is not changed, as it may be what the user sees as `p.grad`.
    """
    ess, delta, beta1 = group["ess"], group["weight_decay"], group["beta1"]
    grads, products, hess, momentum = (
        [state[name] for state in states] for name in ("grad_sum", "product_sum", "hess", "momentum")
    )
    if weight != 1:
        grads = foreach.div(grads, weight)
        foreach.div_(products, weight)
    precision = list(foreach.add(hess, delta))
    if hess_approx == "price":
        foreach.mul_(products, precision)
    foreach.mul_(products, ess)  # now hhat: mean(noise * grad) / sigma^2 (Eq. 3), or ess * mean(grad^2)
    for state in states:
        state["step"] += 1
    foreach.lerp_(momentum, grads, 1 - beta1)
    update_hess(hess, products, precision, group["beta2"], delta)
    bias_correction = 1 - beta1 ** states[0]["step"] if debias else 1.0
    residuals = residuals_of(states)
    means = params if residuals is None else list(foreach.add(residuals, params))
    steps = newton_step(means, momentum, hess, bias_correction, delta, group["clip_radius"])
    lr = float(group["lr"]) * (group["hess_init"] + delta if rescale_lr else 1.0)
    if residuals is None:
        foreach.add_(params, steps, alpha=-lr)
    else:
        foreach.add_(means, steps, alpha=-lr)
        foreach.copy_(params, means)
        foreach.copy_(residuals, foreach.sub(means, [param.to(means[0].dtype) for param in params]))


def update_hess(
    hess: list[Tensor], hhat: list[Tensor], precision: list[Tensor], beta2: float, weight_decay: float
) -> None:
    """h <- beta2 h + (1 - beta2) hhat + (1 - beta2)^2 (h - hhat)^2 / (2 (h + delta)) (Eq. 4), in place.

    Computed as h + r d + r^2 d^2 / (2 (h + delta)) with r = 1 - beta2 and d = hhat - h. `precision` is the
    old h + delta, and `hhat` is consumed. h + delta at most halves in a step, so it stays positive; the floor
    keeps that true of rounded numbers.
    """
    rate = 1 - beta2
    foreach.sub_(hhat, hess)
    foreach.add_(hess, hhat, alpha=rate)
    foreach.mul_(hhat, hhat)
    foreach.addcdiv_(hess, hhat, precision, value=0.5 * rate**2)
    foreach.clamp_min_(hess, hess_floor(weight_decay, hess[0].dtype))


def newton_step(
    means: list[Tensor],
    momentum: list[Tensor],
    hess: list[Tensor],
    bias_correction: float,
    weight_decay: float,
    clip_radius: float,
) -> list[Tensor]:
    """clip((gbar + delta m) / (h + delta)) with gbar = g / bias_correction: a step before its lr."""
    steps = list(foreach.div(momentum, bias_correction))
    foreach.add_(steps, means, alpha=weight_decay)
    foreach.div_(steps, foreach.add(hess, weight_decay))
    if clip_radius < math.inf:
        foreach.clamp_min_(steps, -clip_radius)
        foreach.clamp_max_(steps, clip_radius)
    return steps


@cache
def hess_floor(weight_decay: float, dtype: torch.dtype) -> float:
    """The smallest h for which h + weight_decay is positive in `dtype`."""
    if weight_decay == 0:
        return torch.finfo(dtype).tiny
    return torch.nextafter(torch.tensor(-weight_decay, dtype=dtype), torch.tensor(0.0, dtype=dtype)).item()
