"""PyTorch's first FSDP, FullyShardedDataParallel: which numbers of a parameter a rank holds.

They are a stretch of the flat parameter that those of a module have been joined to. With `use_orig_params`
the parameters are views of it, each of those of its numbers that lie within. They know nothing of that. A
`FlatParamHandle` does, but only modules lead to it, so it is looked for among all objects there are.
"""

import gc
import sys
from typing import Any, NamedTuple
from weakref import ref

from torch import Tensor

UNREADABLE = (
    "the layout of these FullyShardedDataParallel parameters cannot be read: use "
    "torch.distributed.fsdp.fully_shard (FSDP2; with accelerate fsdp_version=2)"
)


class Place(NamedTuple):
    """Of a stretch of numbers in a whole parameter."""

    whole: int  # how many numbers the whole parameter has
    start: int  # the place of the first one here


def is_flattened(params: list[Tensor]) -> bool:
    """Whether parameters are flat ones of FullyShardedDataParallel, or views of one."""
    return any(getattr(param, "_fsdp_flattened", False) for param in params)


class Flats:
    """The flat parameters of a list of parameters."""

    def __init__(self, params: list[Tensor]) -> None:
        """RuntimeError if a parameter is of FullyShardedDataParallel and its flat parameter is not found."""
        flattened = [param for param in params if getattr(param, "_fsdp_flattened", False)]
        self._handles: list[Any] = []
        self._places: dict[int, Place] = {}
        self._known: list[tuple[ref[Tensor], int] | None] = []
        if not flattened:
            return
        wanted = set(map(id, flattened))
        kind = sys.modules["torch.distributed.fsdp._flat_param"].FlatParamHandle
        found: set[int] = set()
        for handle in [thing for thing in gc.get_objects() if type(thing) is kind]:
            of = _parameters(handle)
            if wanted.isdisjoint(map(id, of)):
                continue
            found.update(map(id, of))
            if handle.uses_sharded_strategy:
                self._handles.append(handle)
                self._places |= {id(param): place for param, place in zip(of, _places(handle), strict=True)}
        if not wanted <= found:
            raise RuntimeError(UNREADABLE)

    def __bool__(self) -> bool:
        return bool(self._handles)

    def place(self, param: Tensor) -> Place | None:
        """Where the numbers of a parameter are from; None if it is whole."""
        return self._places.get(id(param))

    def let_go(self) -> None:
        """Free gathered weights, so that the next forward pass gathers those that the shards have by then.

        FullyShardedDataParallel keeps them after a forward pass that no backward pass follows: those of the
        outermost module, with SHARD_GRAD_OP all.
        """
        for handle in self._handles:
            # Before the first forward pass there is nowhere to gather them in.
            if hasattr(handle.flat_param, "_full_param_padded") and not handle.needs_unshard():
                handle.reshard(True)
                handle._prefetched = False

    def note_gradients(self) -> None:
        """Those that there are now are known."""
        grads = [handle.flat_param.grad for handle in self._handles]
        self._known = [None if grad is None else (ref(grad), grad._version) for grad in grads]

    def have_known_gradients(self) -> bool:
        """Whether those that parameters have are the known ones: forward passes make new views of them."""
        grads = [handle.flat_param.grad for handle in self._handles]
        return len(grads) == len(self._known) and all(
            grad is None or (known is not None and known[0]() is grad and known[1] == grad._version)
            for grad, known in zip(grads, self._known, strict=True)
        )

    def check_gradients(self, params: list[Tensor]) -> None:
        """RuntimeError if gradients are those of whole parameters, which have not been reduced yet."""
        for param in params if self._handles else ():
            if param.grad is not None and param.grad.shape != param.shape:
                raise RuntimeError(
                    "a draw ended with gradients that FullyShardedDataParallel has not reduced (within "
                    "no_sync()): have one sampled_params(train=True) around all micro-batches, of which the "
                    "last is outside of no_sync()"
                )


def _parameters(handle: Any) -> list[Tensor]:
    return list(handle.flat_param._params) if handle._use_orig_params else [handle.flat_param]


def _places(handle: Any) -> list[Place]:
    flat = handle.flat_param
    if handle._use_orig_params:
        pairs = zip(flat._numels, flat._shard_param_infos, strict=True)
        return [Place(numel, info.intra_param_start_idx or 0) for numel, info in pairs]
    return [Place(flat._unpadded_unsharded_size.numel(), handle.rank * flat._sharded_size.numel())]
