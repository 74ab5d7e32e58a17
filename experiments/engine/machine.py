"""What a record says of the machine and the code behind its numbers."""

import platform
import re
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from experiments.engine.revision import git_revision

CPU_THREADS = 1  # part of a result's bits on a CPU, so the same for every way of launching
OF_CUDA = re.compile(r"CUDA (driver )?error|cuDNN error|Triton Error \[CUDA\]")


def fix_arithmetic() -> None:
    """For each process with results: one thread, and fp32 that is fp32 on a GPU, as in the released scripts.

    Otherwise PyTorch lets convolutions round their inputs to the 10 bits of TF32.
    """
    torch.set_num_threads(CPU_THREADS)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Device, threads, whether a GPU may round fp32 to TF32, peak memory (MB) since `reset_peak_memory`,
    versions and `git_revision`.
    """
    return {
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "tf32": torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32,
        "peak_memory_mb": _peak_memory_mb(device),
        "versions": {
            "python": platform.python_version(),
            "torch": version("torch"),
            "numpy": version("numpy"),
        },
        "git": git_revision(),
    }


def reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        with suppress(OSError):  # where it is not allowed, the peak is that of the process so far
            Path("/proc/self/clear_refs").write_text("5")


def is_of_lost_device(error: BaseException | None) -> bool:
    """Whether no later call to the GPU can succeed in this process, as CUDA repeats an illegal access or a
    fault of the memory for ever. Too little memory is no such error.

    Any complaint of CUDA is taken for one, as libraries rarely name the cause of theirs. An error that comes
    of another, or while that is handled, is of its kind.
    """
    while error is not None:
        of_cuda = isinstance(error, RuntimeError) and OF_CUDA.search(str(error))
        of_torch = isinstance(error, torch.AcceleratorError | torch.distributed.DistBackendError)
        if (of_cuda or of_torch) and not isinstance(error, torch.OutOfMemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _peak_memory_mb(device: torch.device) -> float | None:
    """Peak memory allocated on the GPU, or peak resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    kilobytes = _field(Path("/proc/self/status"), "VmHWM")
    return int(kilobytes.split()[0]) * 1024 / 1e6 if kilobytes else None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {_field(Path('/proc/cpuinfo'), 'model name') or platform.machine()}"


def _field(path: Path, name: str) -> str:
    """The value of the first line `name: value`; empty where the system has no such file."""
    if not path.exists():
        return ""
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "")
