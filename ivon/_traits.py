"""A few numbers that tell whether two ranks hold the same tensor."""

import ctypes
import hashlib
from typing import NamedTuple

from torch import Tensor

from ivon._fsdp1 import Place
from ivon._shards import box_of, is_sharded, local

_SAMPLE = 4096  # entries of a tensor that are looked at, evenly spaced
_VALUES = 8
# Relative to the root mean square. Copies on processors of different kinds drift apart by rounding, gradients
# of other examples differ by as much as they are large.
_DRIFT = 1e-3


class Trait(NamedTuple):
    """Of a tensor: the shape of the whole, which part of it is here, some values of that and their size.

    Those of `place` "" are wholly here.
    """

    shape: list[int]
    place: str
    values: list[float]
    size: float

    def is_like(self, other: "Trait") -> bool:
        """Whether both may be the same part of the same tensor, up to rounding."""
        if (self.shape, self.place, len(self.values)) != (other.shape, other.place, len(other.values)):
            return False
        bound = _DRIFT * max(self.size, other.size)
        return all(abs(a - b) <= bound for a, b in zip(self.values, other.values, strict=True))

    def tells(self) -> bool:
        """Whether another with the same values can hardly be another tensor: zeros and ones tell nothing."""
        return len(set(self.values)) > 1


def trait(param: Tensor, place: Place | None, tensor: Tensor | None) -> Trait:
    """That of a tensor which belongs to a parameter, as its momentum; None is like zeros."""
    shape, name = [*param.shape], ""
    if is_sharded(param):
        name = str(box_of(param))
    elif place is not None:
        shape, name = [place.whole], f"{place.start} and {param.numel()} from there"
    if tensor is None:
        return Trait(shape, name, [0.0] * min(_VALUES, local(param).numel()), 0.0)
    sample = _sample(tensor).double().nan_to_num()
    values = sample[:: max(1, len(sample) // _VALUES)][:_VALUES].tolist()
    return Trait(shape, name, values, float(sample.square().mean().sqrt()) if len(sample) else 0.0)


def digest(tensors: list[Tensor | None]) -> str:
    """Of the bits of the tensors."""
    found = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        if tensor is not None and len(sample := _sample(tensor)):
            sample = sample.contiguous()
            found.update(ctypes.string_at(sample.data_ptr(), sample.nbytes))
        found.update(b"|")
    return found.hexdigest()


def is_uniform(tensor: Tensor) -> bool:
    """Whether a tensor has several entries, all the same as far as can be seen."""
    sample = _sample(tensor)
    return len(sample) > 1 and bool((sample == sample[0]).all())


def is_finite(tensor: Tensor) -> bool:
    """Whether what is looked at is."""
    return bool(_sample(tensor).isfinite().all())


def _sample(tensor: Tensor) -> Tensor:
    flat = local(tensor).detach().reshape(-1)
    return flat[:: max(1, len(flat) // _SAMPLE)][:_SAMPLE].to("cpu")
