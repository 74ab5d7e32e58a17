"""What IVON does to numbers: Algorithm 1 as elementwise operations, in place, as few as the algebra allows.

`reference.py` says the same line by line and in the paper's letters. The operations `o` are those for single
tensors or those for lists of tensors (_operations.py), whatever the operands are.
"""

from functools import lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

from ivon._operations import Operand

# Below this, 1 / (h + delta) and its square leave the range of float32.
SMALLEST_PRECISION = 1e-18


def draw(
    o: SimpleNamespace,
    hess: Operand,
    params: Operand,
    eps: Operand,
    residuals: Operand | None = None,
    *,
    noise_scale: Any,
    weight_decay: Any,
) -> Operand:
    """theta = m + sigma eps with sigma = noise_scale / sqrt(h + delta), noise_scale = 1 / sqrt(ess) (line 7).

    In the dtype of the states. For 16-bit parameters the mean is params + residuals.
    """
    scaled = _standardised(o, hess, eps, weight_decay)
    if residuals is None:
        return o.add(params, scaled, alpha=noise_scale)
    theta = o.add(residuals, params)
    o.add_(theta, scaled, alpha=noise_scale)
    return theta


def noise_seen(o: SimpleNamespace, thetas: Operand, params: Operand) -> Operand:
    """theta - m of parameters that hold their whole mean, after all rounding."""
    return o.sub(thetas, params)


def noise(o: SimpleNamespace, hess: Operand, eps: Operand, *, noise_scale: Any, weight_decay: Any) -> Operand:
    """theta - m as it was drawn: sigma eps, before theta is rounded."""
    scaled = _standardised(o, hess, eps, weight_decay)
    o.mul_(scaled, noise_scale)
    return scaled


def _standardised(o: SimpleNamespace, hess: Operand, eps: Operand, weight_decay: Any) -> Operand:
    scaled = o.add(hess, weight_decay)
    o.rsqrt_(scaled)
    o.mul_(scaled, eps)
    return scaled


class Numbers(NamedTuple):
    """The numbers of one step of parameters with equal settings that have made equally many steps.

    Floats, or tensors without dimensions. The bias correction b, which is 1 - beta1^t where beta1 stays, is
    moved from the momentum to where it costs nothing: (g / b + delta m) / (h + delta) is
    (g + b delta m) / (h + delta) / b.
    """

    hess_scale: Any  # of the products: ess, or 1 where they are Hessian estimates themselves
    weight: Any  # of the sums over draws
    momentum_rate: Any  # 1 - beta1
    hess_rate: Any  # 1 - beta2
    weight_decay: Any  # delta
    decay: Any  # b delta
    clip: Any  # b xi
    lr: Any  # alpha / b, with the factor h0 + delta if that is wanted
    hess_floor: Any


class Flags(NamedTuple):
    """What else distinguishes one step from another."""

    estimator: str  # one of HESS_APPROXIMATIONS
    summed: bool  # gradients and products are weighted sums over draws; otherwise `products` is the noise
    clipped: bool


def update(
    o: SimpleNamespace,
    params: Operand,
    hess: Operand,
    momentum: Operand,
    grads: Operand,
    products: Operand,
    residuals: Operand | None = None,
    corrections: Operand | None = None,
    *,
    n: Numbers,
    flags: Flags,
) -> None:
    """Lines 2 to 6 of Algorithm 1.

    `products` is consumed. For 16-bit parameters the mean is params + residuals. In a CUDA graph b is in
    `corrections`, with 1 in its place in `n`, and the learning rate may be a tensor.
    """
    if flags.summed:
        grads = o.div(grads, n.weight)
        o.div_(products, n.weight)
    else:
        products = multiply(o, products, grads, flags.estimator)
    update_hess(o, hess, products, n, times_precision=flags.estimator == "price")
    o.lerp_(momentum, grads, n.momentum_rate)
    means = params if residuals is None else o.add(residuals, params)
    precision = o.add(hess, n.weight_decay)
    if corrections is not None:
        direction = o.div(momentum, corrections)
        o.add_(direction, means, alpha=n.decay)
        o.div_(direction, precision)
        _clip(o, direction, n, flags)
        o.mul_(direction, n.lr)
        o.sub_(means, direction)
    elif flags.clipped:
        direction = o.add(momentum, means, alpha=n.decay)
        o.div_(direction, precision)
        _clip(o, direction, n, flags)
        o.add_(means, direction, alpha=-n.lr)
    else:
        direction = o.add(momentum, means, alpha=n.decay)
        o.addcdiv_(means, direction, precision, value=-n.lr)
    if residuals is not None:
        o.copy_(params, means)
        o.copy_(residuals, o.sub(means, params))


def _clip(o: SimpleNamespace, direction: Operand, n: Numbers, flags: Flags) -> None:
    if flags.clipped:
        o.clamp_min_(direction, -n.clip)
        o.clamp_max_(direction, n.clip)


def multiply(o: SimpleNamespace, noise: Operand, grads: Operand, estimator: str) -> Operand:
    """What the Hessian estimate is made of, in the memory of the noise.

    price: noise * grad (Eq. 3). gradsq: grad^2. ggn: what it holds already, mean squares of gradients.
    """
    if estimator == "ggn":
        return noise
    if estimator == "gradsq":
        o.copy_(noise, grads)
    return o.times(noise, grads)


def update_hess(
    o: SimpleNamespace, hess: Operand, products: Operand, n: Numbers, *, times_precision: bool
) -> None:
    """h <- beta2 h + (1 - beta2) hhat + (1 - beta2)^2 (h - hhat)^2 / (2 (h + delta)) (line 4), in place.

    hhat is the scaled product, with `times_precision` times h + delta: for Eq. 3, where 1 / sigma^2 is
    ess (h + delta). With p = h + delta, r = 1 - beta2 and q = (h - hhat) / p the right-hand side is
    h - r p (q - r q^2 / 2): small changes are added to h, so that none is lost where beta2 is near 1. p at
    most halves in a step, so it stays positive; the floor keeps that true of rounded numbers.
    """
    rate = n.hess_rate
    precision = o.add(hess, n.weight_decay)
    if times_precision:
        q = o.div(hess, precision)
        o.add_(q, products, alpha=-n.hess_scale)
    else:
        q = o.add(hess, products, alpha=-n.hess_scale)
        o.div_(q, precision)
    o.addcmul_(q, q, q, value=-0.5 * rate)
    o.addcmul_(hess, precision, q, value=-rate)
    o.clamp_min_(hess, n.hess_floor)


@lru_cache(maxsize=64)  # a schedule of weight_decay has a new one at every step
def hess_floor(weight_decay: float, dtype: torch.dtype) -> float:
    """The smallest h that is allowed: h + weight_decay is positive in `dtype`, and its inverse finite."""
    lowest = torch.tensor(SMALLEST_PRECISION - weight_decay, dtype=dtype, device="cpu")
    if (lowest + weight_decay).item() < SMALLEST_PRECISION / 2:
        lowest = torch.nextafter(-lowest.new_tensor(weight_decay), lowest.new_zeros(()))
    return lowest.item()
