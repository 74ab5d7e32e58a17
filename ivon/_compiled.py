"""The kernels as single passes over memory, made by torch.compile, for large parameters on a CPU.

A chain of eager operations reads and writes the cache once for each of them; a compiled one holds its numbers
in registers and is three times as fast. Compiling takes some ten seconds once, so it is for parameters that
make up for it soon, and needs a C++ compiler; where that fails, the eager operations do the same.
"""

import warnings
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ivon import _kernels, _threefry

WORTHWHILE = 1 << 23  # entries of parameters of one kind: a step then takes 100 ms without it

# As SINGLE in _operations.py, for numbers that are tensors without dimensions: a Python number would be
# compiled in, and the learning rate is another at every step.
TRACED = SimpleNamespace(
    add=lambda x, y, alpha=1: x + alpha * y,
    add_=lambda x, y, alpha=1: x.copy_(x + alpha * y),
    addcdiv_=lambda x, a, b, value: x.copy_(x + value * a / b),
    addcmul_=lambda x, a, b, value: x.copy_(x + value * a * b),
    clamp_max_=lambda x, bound: x.copy_(torch.minimum(x, bound)),
    clamp_min_=lambda x, bound: x.copy_(torch.maximum(x, bound)),
    copy_=Tensor.copy_,
    div=torch.div,
    div_=Tensor.div_,
    lerp_=lambda x, y, weight: x.copy_(x + weight * (y - x)),
    mul_=Tensor.mul_,
    rsqrt_=Tensor.rsqrt_,
    sub=torch.sub,
    sub_=Tensor.sub_,
    times=torch.mul,
    to=Tensor.to,
)


def _displace(params: Tensor, kept: Tensor, hess: Tensor, numbers: Tensor) -> None:
    noise_scale, weight_decay = numbers.unbind()
    theta = _kernels.draw(TRACED, hess, params, kept, noise_scale=noise_scale, weight_decay=weight_decay)
    kept.copy_(params)
    params.copy_(theta)


def _restore(params: Tensor, kept: Tensor) -> None:
    noise = _kernels.noise_seen(TRACED, params, kept)
    params.copy_(kept)
    kept.copy_(noise)


def _update(
    params: Tensor,
    hess: Tensor,
    momentum: Tensor,
    grads: Tensor,
    products: Tensor,
    numbers: Tensor,
    flags: _kernels.Flags,
) -> None:
    n = _kernels.Numbers(*numbers.unbind())
    _kernels.update(TRACED, params, hess, momentum, grads, products, n=n, flags=flags)


def displace(params: Tensor, kept: Tensor, hess: Tensor, noise_scale: float, weight_decay: float) -> bool:
    """params: m <- theta; kept: eps <- m. Whether it was done."""
    return _run(_displace, params, kept, hess, hess.new_tensor([noise_scale, weight_decay]))


def restore(params: Tensor, kept: Tensor) -> bool:
    """params: theta <- m; kept: m <- theta - m. Whether it was done."""
    return _run(_restore, params, kept)


def update(*operands: Tensor, n: _kernels.Numbers, flags: _kernels.Flags) -> bool:
    """_kernels.update; whether it was done."""
    return _run(_update, *operands, operands[1].new_tensor(n), flags)


def normals(lows: Tensor, highs: Tensor, place: Tensor) -> bool:
    """_threefry.normals; whether it was done."""
    return _run(_threefry.normals, lows, highs, place)


_broken = False  # once it has failed, it is not tried again


def _run(function: Callable[..., None], *arguments: Any) -> bool:
    """Whether the function could be compiled and has run; if not, nothing has changed."""
    global _broken
    if not _broken:
        from torch._dynamo.exc import TorchDynamoException  # takes a second to import

        # Views of parameters would be refused; a detached tensor still counts the changes to the parameter.
        plain = [a.detach() if isinstance(a, Tensor) else a for a in arguments]
        try:
            _compile(function)(*plain)
        except TorchDynamoException as error:
            _broken = True
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(f"IVON's step is not compiled, and slower for it: {reason}", stacklevel=2)
    return not _broken


@cache
def _compile(function: Callable[..., None]) -> Callable[..., None]:
    return torch.compile(function, dynamic=True, fullgraph=True)


def usable(entries: int) -> bool:
    """Whether so many entries are better compiled."""
    return entries >= WORTHWHILE and not _broken
