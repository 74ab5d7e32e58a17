"""Which GPUs a worker may see, decided without importing PyTorch."""

import os
from pathlib import Path

DEVICE_LOST = 76  # exit status of a worker that cannot use its GPU any more, where a fresh one may


def visible_gpus() -> list[str]:
    """Names for CUDA_VISIBLE_DEVICES: what it holds already, else the numbers of this machine's GPUs."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name.strip() for name in allowed.split(",") if name.strip()]
    return [str(number) for number in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def share(slot: int, processes: int) -> list[str]:
    """The GPUs of the worker in `slot`: `processes` of them; with more workers than GPUs they share."""
    gpus = visible_gpus()
    first = slot * processes
    return [gpus[(first + i) % len(gpus)] for i in range(min(processes, len(gpus)))]
