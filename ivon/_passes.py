"""Passes of a model with many values of its parameters, one by one or many in one."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from ivon._placing import Values, restored, write
from ivon._shards import is_sharded

# Passes of many draws in one (torch.vmap) save the time that an operation takes whatever its size, and lose
# where matrices become batches of matrices, convolutions grouped ones. Measured on one thread of a CPU: 32
# draws of a perceptron with two hidden layers of 20 units and 32 inputs take 0.29 of the time of 32 passes;
# 100 units 0.52 with 32 inputs and 1.4 with 128; a ResNet-20 0.6 with one image of 32 x 32 and 2.6 with 50.
# Below 16 draws there was next to nothing to win.
TOGETHER = 32  # draws at most in one pass
WORTHWHILE = 16  # at least
LARGEST_VALUE = 1 << 12  # numbers in any intermediate result of one pass
LARGEST_PARAM = 1 << 14  # numbers in any parameter
ACCELERATOR = 64  # times as many there: a guess from what a kernel launch costs, not measured
MEMORY = 1 << 28  # bytes for the parameters of the draws of one pass

# Models that a pass of many draws has failed on, so that it is tried once and not for every batch.
_one_at_a_time: WeakSet[nn.Module] = WeakSet()


T = TypeVar("T")


class Average(Protocol[T]):
    """What is read from the outputs of a pass, and how passes are averaged; nothing is kept in between."""

    def read(self, outputs: Any) -> Tensor:
        """What counts of the outputs of one pass; also called within `torch.vmap`."""
        ...

    def add(self, total: T | None, each: Tensor, weights: Sequence[float]) -> T:
        """`total`, None before the first, and what was read from some passes, stacked, of these weights."""
        ...


def average(
    model: nn.Module,
    inputs: Any,
    params: Mapping[str, nn.Parameter],
    values: Callable[[Sequence[int]], Values],
    weights: Sequence[float],
    of: Average[T],
) -> T:
    """The average `of` the outputs with the i-th values of the parameters, of weight weights[i].

    `values` has those of several i, stacked. The first pass is always one of its own: it shows whether the
    others can go together, and a model that fails in it fails with the error that the user would see.
    """
    rest = range(1, len(weights))
    together = _together(model, inputs, params, len(rest))
    with restored(params):
        write(params, _only(values([0])))
        if together:
            first, together = _probed(model, inputs, of, together)
        else:
            first = _pass(model, inputs, of)
        total = of.add(None, first[None], weights[:1])
        if together:
            try:
                return _in_chunks(model, inputs, params, values, weights, of, total, together)
            except Exception:  # of any kind, from operations that cannot be batched to want of memory
                _one_at_a_time.add(model)
        for i in rest:
            write(params, _only(values([i])))
            total = of.add(total, _pass(model, inputs, of)[None], [weights[i]])
    return total


def _pass(model: Callable[..., Any], inputs: Any, of: Average[Any]) -> Tensor:
    return of.read(model(**inputs) if isinstance(inputs, Mapping) else model(inputs))


def _in_chunks(
    model: nn.Module,
    inputs: Any,
    params: Mapping[str, nn.Parameter],
    values: Callable[[Sequence[int]], Values],
    weights: Sequence[float],
    of: Average[T],
    total: T,
    together: int,
) -> T:
    """`total` and all further draws, at most `together` in one pass."""
    count = len(weights) - 1
    chunks = -(-count // together)
    for c in range(chunks):
        drawn = range(1 + count * c // chunks, 1 + count * (c + 1) // chunks)
        stacked = values(drawn)
        fitting = {name: stacked[name].to(param.device, param.dtype) for name, param in params.items()}
        total = of.add(total, _batched(model, inputs, of, fitting), [weights[i] for i in drawn])
    return total


def _only(stacked: Values) -> Values:
    return {name: values[0] for name, values in stacked.items()}


def _batched(model: nn.Module, inputs: Any, of: Average[Any], stacked: dict[str, Tensor]) -> Tensor:
    """What is read with each draw, first dimension the draws."""

    def one(values: dict[str, Tensor]) -> Tensor:
        def with_values(*args: Any, **kwargs: Any) -> Any:
            return functional_call(model, values, args, kwargs)

        return _pass(with_values, inputs, of)

    with warnings.catch_warnings():
        # An operation without a batching rule would be repeated for every draw, slower than a pass each.
        warnings.filterwarnings("error", message="There is a performance drop")
        return torch.vmap(one)(stacked)


def _together(model: nn.Module, inputs: Any, params: Mapping[str, nn.Parameter], draws: int) -> int:
    """How many draws to try in one pass, as far as can be told without one; 0 for none."""
    if draws < WORTHWHILE or model in _one_at_a_time:
        return 0
    tensors = list(params.values())
    scale = _scale(tensors[0])
    given = inputs.values() if isinstance(inputs, Mapping) else (inputs,)
    if any(isinstance(x, Tensor) and x.numel() > LARGEST_VALUE * scale for x in given):
        return 0
    if any(p.numel() > LARGEST_PARAM * scale or is_sharded(p) for p in tensors):
        return 0
    if not all(_is_plain(module) for module in model.modules()):
        return 0
    fitting = min(TOGETHER, MEMORY // max(1, sum(p.nbytes for p in tensors)))
    return fitting if fitting >= WORTHWHILE else 0


def _scale(tensor: Tensor) -> int:
    return 1 if tensor.device.type == "cpu" else ACCELERATOR


def _is_plain(module: nn.Module) -> bool:
    """Whether nothing but its `forward` sees what passes through the module."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.jit.ScriptModule)
    compiled = hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
    return not (
        module._forward_hooks or module._forward_pre_hooks or compiled or isinstance(module, wrappers)
    )


def _probed(model: nn.Module, inputs: Any, of: Average[Any], together: int) -> tuple[Tensor, int]:
    """One pass, and `together` again if it was small and changed nothing in the model, otherwise 0."""
    before, largest = _memory(model), _Largest()
    try:
        with largest:
            result = _pass(model, inputs, of)
    except Exception:  # perhaps from an operation that cannot be looked at; otherwise it comes again
        result = None
    if result is None:
        result = _pass(model, inputs, of)
        _one_at_a_time.add(model)
        return result, 0
    small = largest.numel <= LARGEST_VALUE * _scale(result)
    return result, together if small and _unchanged(before, _memory(model)) else 0


class _Largest(TorchDispatchMode):
    """Finds the number of elements of the largest result of any operation."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:  # of a parameter, perhaps
            for tensor in result if isinstance(result, tuple | list) else (result,):
                if isinstance(tensor, Tensor):
                    self.numel = max(self.numel, tensor.numel())
        return result


def _memory(model: nn.Module) -> list[tuple[Any, int, int]]:
    """What a pass changes if it leaves something in a module: objects, lengths, versions of tensors."""
    return [
        (value, len(value) if isinstance(value, list | dict | set) else 0, _version(value))
        for module in model.modules()
        for value in (*vars(module).values(), *module._buffers.values())
    ]


def _version(value: Any) -> int:
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0


def _unchanged(before: list[tuple[Any, int, int]], after: list[tuple[Any, int, int]]) -> bool:
    return len(before) == len(after) and all(
        b[0] is a[0] and b[1:] == a[1:] for b, a in zip(before, after, strict=True)
    )
