"""Memory that an optimizer takes beyond parameters and gradients, in bytes for each parameter.

On a GPU PyTorch's allocator is asked. On a CPU there are two ways, and each sees what the other cannot.
*Counted*: the sum of all that PyTorch's CPU allocator gave and took back, event by event from the profiler,
so exact, temporary buffers within an operation included; but only for the thread that calls, and at the price
of some kilobytes for each event. *Resident*: the pages that the process holds, as the system counts them,
whoever asked for them; good to a few tenths of a byte where parameters are many.
"""

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks._optimizers import Builder, hand_over, random_gradients, random_weights
from benchmarks.shapes import Shape, total
from experiments.engine.allocated import WARM_UP, alive_and_peak

COUNTED_UP_TO = 30_000_000  # parameters; the profiler's own memory grows with the events
RESIDENT_FROM = 10_000_000  # parameters; below them Python's objects blur what is resident
_M_MMAP_THRESHOLD = -3  # in glibc's malloc.h


@dataclass(frozen=True)
class Memory:
    """Bytes for each parameter: between two steps, and at the peak of a step with one draw."""

    kept: float
    peak: float


def counted(
    build: Builder, shapes: Sequence[Shape], device: torch.device, dtype: torch.dtype = torch.float32
) -> Memory:
    """Memory that PyTorch allocated for the optimizer: exact."""
    measure = _of_gpu if device.type == "cuda" else _of_profiler
    kept, peak = measure(build, shapes, device, dtype)
    return Memory(kept / total(shapes), peak / total(shapes))


def resident(build: Builder, shapes: Sequence[Shape], dtype: torch.dtype = torch.float32) -> Memory | None:
    """Pages of this process, on Linux; None elsewhere, or where the system does not let a process count.

    To be called after all timing, as it makes malloc slower for the rest of the process, and before anything
    is counted: the heap that the profiler leaves takes up blocks whose pages then stay when they are freed.
    """
    if sys.platform != "linux" or not os.access("/proc/self/clear_refs", os.W_OK):
        return None
    # Memory that is freed shall leave the process at once, so large blocks must not come from the heap.
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 16)
    cpu = torch.device("cpu")
    rehearsal = _stepper(build, *_tensors(shapes, cpu, dtype))  # compiles, starts threads, imports
    for _ in range(WARM_UP):
        rehearsal()
    del rehearsal
    gc.collect()
    libc.malloc_trim(0)  # what earlier work has left in the heap
    weights, gradients = _tensors(shapes, cpu, dtype)
    before = _pages("VmRSS")
    step = _stepper(build, weights, gradients)
    for _ in range(WARM_UP):
        step()
    gc.collect()
    kept = _pages("VmRSS") - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    step()
    peak = _pages("VmHWM") - before
    return Memory(kept / total(shapes), peak / total(shapes))


def _tensors(
    shapes: Sequence[Shape], device: torch.device, dtype: torch.dtype
) -> tuple[list[nn.Parameter], list[Tensor]]:
    return random_weights(shapes, device, dtype), random_gradients(shapes, device, dtype)


def _stepper(build: Builder, weights: list[nn.Parameter], gradients: list[Tensor]) -> Callable[[], None]:
    """A function that takes a step. Some optimizers make their state here, others in the first step."""
    candidate = build(weights)

    def step() -> None:
        candidate.draw()
        hand_over(weights, gradients)
        candidate.update()

    return step


def _of_profiler(
    build: Builder, shapes: Sequence[Shape], device: torch.device, dtype: torch.dtype
) -> tuple[int, int]:
    kept, peak = alive_and_peak(lambda: _stepper(build, *_tensors(shapes, device, dtype)))
    base = 2 * total(shapes) * dtype.itemsize  # parameters and gradients
    return kept - base, peak - base


def _of_gpu(
    build: Builder, shapes: Sequence[Shape], device: torch.device, dtype: torch.dtype
) -> tuple[int, int]:
    weights, gradients = _tensors(shapes, device, dtype)
    gc.collect()
    # Asked, not summed up: this allocator rounds each tensor up to 512 bytes.
    base = torch.cuda.memory_allocated(device)
    step = _stepper(build, weights, gradients)
    for _ in range(WARM_UP):
        step()
    gc.collect()
    kept = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return kept - base, torch.cuda.max_memory_allocated(device) - base


def _pages(field: str) -> int:
    """A field of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
