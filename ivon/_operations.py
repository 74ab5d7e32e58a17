# pyright: reportPrivateImportUsage=false
"""Elementwise operations under the same names for single tensors and for lists of tensors.

On a CPU a stretch of memory is one tensor, and a plain operation costs a microsecond beside its work, one on
a list six. On a GPU it is a list, and an operation is one kernel launch for all of it. A trailing underscore
means in place; `times` is a product that may take the memory of its first factor.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

Operand = Any  # a tensor, or a list of tensors


def _to_list(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return tensors if all(t.dtype is dtype for t in tensors) else [t.to(dtype) for t in tensors]


def _times_lists(x: list[Tensor], y: list[Tensor]) -> list[Tensor]:
    torch._foreach_mul_(x, y)
    return x


SINGLE = SimpleNamespace(
    add=torch.add,
    add_=Tensor.add_,
    addcdiv_=Tensor.addcdiv_,
    addcmul_=Tensor.addcmul_,
    clamp_max_=Tensor.clamp_max_,
    clamp_min_=Tensor.clamp_min_,
    copy_=Tensor.copy_,
    div=torch.div,
    div_=Tensor.div_,
    lerp_=Tensor.lerp_,
    mul_=Tensor.mul_,
    rsqrt_=Tensor.rsqrt_,
    sub=torch.sub,
    sub_=Tensor.sub_,
    times=Tensor.mul_,
    to=Tensor.to,
)

LISTS = SimpleNamespace(
    add=torch._foreach_add,
    add_=torch._foreach_add_,
    addcdiv_=torch._foreach_addcdiv_,
    addcmul_=torch._foreach_addcmul_,
    clamp_max_=torch._foreach_clamp_max_,
    clamp_min_=torch._foreach_clamp_min_,
    copy_=torch._foreach_copy_,
    div=torch._foreach_div,
    div_=torch._foreach_div_,
    lerp_=torch._foreach_lerp_,
    mul_=torch._foreach_mul_,
    rsqrt_=torch._foreach_rsqrt_,
    sub=torch._foreach_sub,
    sub_=torch._foreach_sub_,
    times=_times_lists,
    to=_to_list,
)
