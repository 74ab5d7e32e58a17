# pyright: reportPrivateImportUsage=false
"""Cache blocking: a chain of elementwise operations over long tensors, one short stretch after the other.

On a CPU each operation of the chain then finds its operands in the cache; whole tensors would come from
memory every time. On other devices a stretch is long, and bounds the memory for intermediate results.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from ivon._operations import LISTS, SINGLE, Operand

SMALL = 1 << 16  # entries; smaller tensors share a stretch, as operations cost microseconds beside their work
CPU_STRETCH = 1 << 16  # entries a thread, so that the operands of an operation stay in its cache
DEVICE_STRETCH = 1 << 24  # entries; their intermediate results are small beside the weights that need a GPU
PLAIN = {Tensor, nn.Parameter}  # types whose memory is all there is to them


@dataclass
class Stretch:
    """The same stretch of what parameters have in several roles: mean, gradient, Hessian, ..."""

    tensors: list[list[Tensor]]  # `tensors[r]` are in role r
    operations: SimpleNamespace  # for its operands

    def operands(self) -> list[Operand]:
        """What to compute with, by role: a list of tensors or, on a CPU, one flat tensor.

        For several that is a copy, which is to be put back after a change.
        """
        if self.operations is LISTS:
            return self.tensors
        return [role[0] if len(role) == 1 else _flatten_dense_tensors(role) for role in self.tensors]

    def put_back(self, role: int, operand: Operand) -> None:
        """Bring a change of the operand to the tensors."""
        if self.operations is SINGLE and len(self.tensors[role]) > 1:
            self.write(role, operand)

    def write(self, role: int, values: Operand) -> None:
        """Copy new values, laid out like an operand, to the tensors."""
        tensors = self.tensors[role]
        if self.operations is SINGLE:
            if len(tensors) == 1:
                tensors[0].copy_(values)
                return
            values = list(_unflatten_dense_tensors(values, tensors))
        torch._foreach_copy_(tensors, values)


def stretches(roles: Sequence[list[Tensor]]) -> Iterator[Stretch]:
    """All stretches in turn; `roles[r][i]` is what parameter i has in role r: of one shape and device."""
    if not roles[0]:
        return
    operations, small, length = SINGLE, SMALL, CPU_STRETCH * torch.get_num_threads()
    if not _on_cpu(roles[0][0]):
        operations, small, length = LISTS, DEVICE_STRETCH, DEVICE_STRETCH
    together: list[int] = []
    for i, tensor in enumerate(roles[0]):
        views = _views([role[i] for role in roles], length) if tensor.numel() > small else None
        if views is None:
            together.append(i)
            continue
        for view in views:
            yield Stretch([[t] for t in view], operations)
    if together:
        for run in _runs([[role[i] for i in together] for role in roles], length):
            yield Stretch(run, operations)


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _runs(roles: Sequence[list[Tensor]], length: int) -> Iterator[list[list[Tensor]]]:
    """The parameters in runs of about `length` entries together."""
    begin, count = 0, 0
    for i, tensor in enumerate(roles[0]):
        count += tensor.numel()
        if count >= length or i + 1 == len(roles[0]):
            yield [role[begin : i + 1] for role in roles]
            begin, count = i + 1, 0


def _views(tensors: list[Tensor], length: int) -> Iterator[tuple[Tensor, ...]] | None:
    """Views of equal stretches of tensors that are laid out alike and without gaps; None if they are not."""
    if all(t.is_contiguous() or not any(t.stride()) for t in tensors):  # or one number for all entries
        flat = [t.view(-1) for t in tensors]
    else:
        strides = tensors[0].stride()
        if not is_dense(tensors[0]) or any(t.stride() != strides for t in tensors):
            return None
        flat = [in_memory_order(t) for t in tensors]
    return zip(*(t.split(length) for t in flat), strict=True)


def is_dense(tensor: Tensor) -> bool:
    """Whether the entries fill their stretch of memory: contiguous, channels_last, transposed."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


def lie_alike(*tensors: Tensor) -> bool:
    """Whether tensors of one shape have no gaps and their entries in the same order."""
    if all(map(Tensor.is_contiguous, tensors)):  # which does not look at strides that are never taken
        return True
    stride = tensors[0].stride()
    return all(t.stride() == stride for t in tensors) and is_dense(tensors[0])


def all_lie_alike(*roles: list[Tensor]) -> bool:
    """Whether for each parameter what it has in these roles lies alike."""
    return all(all(map(Tensor.is_contiguous, role)) for role in roles) or all(map(lie_alike, *roles))


def in_memory_order(dense: Tensor) -> Tensor:
    """A flat view of a tensor without gaps, whatever its strides."""
    return dense.as_strided((dense.numel(),), (1,), dense.storage_offset())


def laid_out_like(models: list[Tensor], values: list[Tensor]) -> list[Tensor]:
    """The values, copied where their dtype or the way they lie in memory is not that of the models."""
    dtype = models[0].dtype
    if all(map(Tensor.is_contiguous, chain(models, values))) and all(v.dtype is dtype for v in values):
        return values
    return [
        v if v.dtype is dtype and lie_alike(m, v) else torch.empty_like(m).copy_(v)
        for v, m in zip(values, models, strict=True)
    ]
