"""A recording of tensor operations that can be played again: what a CUDA graph does, on any device."""

from typing import Any

import torch
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default}


class Tape(TorchDispatchMode):
    """Within it every operation is done and recorded; `replay` does them again in the same memory.

    As in a CUDA graph, what Python decided and the numbers that it passed are those of the recording, and
    nothing may be read back from the tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, tuple, dict, list[torch.Tensor]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in READS, f"{func} waits for the device, which a capture does not allow"
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        made = _made(out, (args, kwargs))
        if made or func._schema.is_mutable:  # not a view
            self._calls.append((func, args, kwargs, made))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, made in self._calls:
            # A replay is not seen by Python: version counters stay as they were.
            with _unsafe_preserve_version_counter((*_tensors((args, kwargs)), *made)):
                out = func(*args, **kwargs)
                for old, new in zip(made, _made(out, (args, kwargs)), strict=True):
                    old.copy_(new)


def _made(out: Any, arguments: Any) -> list[torch.Tensor]:
    """The tensors of the result that are in memory of their own."""
    taken = {t.untyped_storage().data_ptr() for t in _tensors(arguments) if t.numel()}
    return [t for t in _tensors(out) if t.numel() and t.untyped_storage().data_ptr() not in taken]


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
