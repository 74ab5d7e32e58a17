"""Parameters of which this process holds a part: DTensor (FSDP2, tensor parallelism), and those of FSDP1."""

import math
import sys
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

from ivon import _noise
from ivon._fsdp1 import Place


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor; without importing torch.distributed.tensor, which takes a while."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def any_sharded(tensors: list[Tensor]) -> bool:
    """Whether any of them is a DTensor."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and any(issubclass(kind, module.DTensor) for kind in set(map(type, tensors)))


def locals_of(tensors: list[Tensor]) -> list[Tensor]:
    """The parts of the tensors that are here."""
    return [local(tensor) for tensor in tensors] if any_sharded(tensors) else tensors


def local(tensor: Tensor) -> Tensor:
    """The part of the tensor that is here; of an ordinary tensor itself."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


@dataclass
class Noise:
    """Standard normals for the local parts of `params`, one after the other in the flat tensor `out`.

    The numbers belong to the places in the whole parameters: with any sharding a process has the numbers that
    one process alone would have there, and replicas have the same (on CPUs; GPUs draw each part for itself).
    """

    out: Tensor
    params: list[Tensor]
    key: str
    places: list[Place | None] | None = None  # of parameters of FSDP1; None: there are none
    made: int = 0

    def again(self) -> "Noise":
        """The same numbers, to be made once more in the same place."""
        return Noise(self.out, self.params, self.key, self.places)

    def is_of_whole_parameters(self) -> bool:
        """Whether its numbers are those of the key from the first on, without gaps."""
        return not self._is_in_parts()

    def _is_in_parts(self) -> bool:
        return self.places is not None or any_sharded(self.params)

    def reach(self, parts: list[Tensor]) -> None:
        """Make the numbers of these parts of `out`, those before, and perhaps more.

        Late, so that they are in the cache when used.
        """
        end = max(int(part.storage_offset()) + part.numel() for part in parts)
        if end <= self.made:
            return
        if self._is_in_parts():
            self._fill_parts()
            end = len(self.out)
        elif self.out.device.type != "cpu":  # of the numbers of a GPU no part can be had alone
            end = len(self.out)
            _noise.fill(self.out, self.key, start=0)
        else:
            _noise.fill(self.out[self.made : end], self.key, start=self.made)
        self.made = end

    def _fill_parts(self) -> None:
        first = begin = 0
        for param, place in zip(self.params, self.places or repeat(None), strict=False):
            length = local(param).numel()
            out = self.out[begin : begin + length]
            if place is None:
                _fill_part(out, param, self.key, first)
            elif length:
                _noise.fill(out, self.key, start=first + place.start)
            first, begin = first + (place.whole if place else param.numel()), begin + length


def box_of(param: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of the local part of a DTensor, and where in the whole it begins."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    return compute_local_shape_and_global_offset(
        param.shape,
        param.device_mesh,  # type: ignore[attr-defined]
        param.placements,  # type: ignore[attr-defined]
    )


def _fill_part(out: Tensor, param: Tensor, key: str, first: int) -> None:
    if not is_sharded(param):
        _noise.fill(out, key, start=first)
        return
    shape, offset = box_of(param)
    if math.prod(shape) == 0:
        return
    if tuple(shape[1:]) == tuple(param.shape[1:]):  # whole rows lie next to each other
        start = offset[0] * math.prod(shape[1:]) if offset else 0
        _noise.fill(out, key, start=first + start)
        return
    whole = torch.empty(param.numel(), dtype=out.dtype, device=out.device)
    _noise.fill(whole, key, start=first)
    box = tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))
    out.copy_(whole.view(param.shape)[box].reshape(-1))
