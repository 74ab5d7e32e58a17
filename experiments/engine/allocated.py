"""Memory of a training step, as PyTorch's allocator counts it: exact, and on a CPU the same every time."""

import gc
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler import profile, record_function

WARM_UP = 2  # steps, after which all state exists
_MARK = "the measured step"

Step = Callable[[], Any]
Maker = Callable[[], Step]  # makes a network and all that trains it


def peak_bytes(make: Maker, device: torch.device) -> int:
    """Bytes alive at the peak of a step: weights, gradients, state of the optimizer, activations.

    What was there before `make` does not count. On a CPU the profiler follows every allocation of the thread
    that calls.
    """
    if device.type == "cuda":
        gc.collect()
        before = torch.cuda.memory_allocated(device)
        step = make()
        for _ in range(WARM_UP):
            step()
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    return alive_and_peak(make)[1]


def alive_and_peak(make: Maker) -> tuple[int, int]:
    """Bytes on the CPU between two steps, and at the peak of one, by the profiler."""
    # Everything from the first weight on, as what is freed must have been seen when it was allocated.
    gc.collect()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise it prints when it starts and stops
    with profile(profile_memory=True) as recorded:
        step = make()
        for _ in range(WARM_UP):
            step()
        gc.collect()
        with record_function(_MARK):
            step()
    events: list[Any] = recorded.kineto_results.events()  # type: ignore[union-attr]
    mark = next(event for event in events if event.name() == _MARK)
    begin, end = mark.start_ns(), mark.start_ns() + mark.duration_ns()
    changes = sorted(
        ((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"),
        key=lambda change: change[0],
    )
    alive = live = peak = sum(size for at, size in changes if at < begin)
    for size in (size for at, size in changes if begin <= at <= end):
        live += size
        peak = max(peak, live)
    return alive, peak


def tensor_bytes(state: Any) -> int:
    """Bytes of all tensors in nested containers: of what a method adds to the weights, by its state dict."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(tensor_bytes(value) for value in state.values())
    if isinstance(state, list | tuple):
        return sum(tensor_bytes(value) for value in state)
    return 0
