"""Parameters of which this process holds a part: DTensor, as FSDP2 and tensor parallelism make them."""

import math
import sys

import torch
from torch import Tensor

from ivon import _noise


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor; without importing torch.distributed.tensor, which takes a while."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def locals_of(tensors: list[Tensor]) -> list[Tensor]:
    """The parts of the tensors that are here."""
    module = sys.modules.get("torch.distributed.tensor")
    if module is None or not any(issubclass(kind, module.DTensor) for kind in set(map(type, tensors))):
        return tensors
    return [local(tensor) for tensor in tensors]


def local(tensor: Tensor) -> Tensor:
    """The part of the tensor that is here; of an ordinary tensor itself."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def fill_with_noise(out: Tensor, params: list[Tensor], key: str) -> None:
    """Standard normals for the local parts of `params`, one after the other in the flat tensor `out`.

    The numbers belong to the places in the whole parameters: with any sharding a process has the numbers that
    one process alone would have there, and replicas have the same (on CPUs; GPUs draw each part for itself).
    """
    total = sum(param.numel() for param in params)
    if not any(is_sharded(param) for param in params):
        _noise.fill(out, key, start=0, total=total)
        return
    first = begin = 0
    for param in params:
        length = local(param).numel()
        _fill_part(out[begin : begin + length], param, key, first, total)
        first, begin = first + param.numel(), begin + length


def _fill_part(out: Tensor, param: Tensor, key: str, first: int, total: int) -> None:
    if not is_sharded(param):
        _noise.fill(out, key, start=first, total=total)
        return
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(
        param.shape,
        param.device_mesh,  # type: ignore[attr-defined]
        param.placements,  # type: ignore[attr-defined]
    )
    if math.prod(shape) == 0:
        return
    if tuple(shape[1:]) == tuple(param.shape[1:]):  # whole rows lie next to each other
        start = offset[0] * math.prod(shape[1:]) if offset else 0
        _noise.fill(out, key, start=first + start, total=total)
        return
    whole = torch.empty(param.numel(), dtype=out.dtype, device=out.device)
    _noise.fill(whole, key, start=first, total=total)
    box = tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))
    out.copy_(whole.view(param.shape)[box].reshape(-1))
