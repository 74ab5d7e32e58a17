"""Moving batches from loader processes to the device while the device works on the one before."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

Pieces = list[tuple[Tensor, ...]]  # parts of one batch, each a tuple of the same kinds of tensors


def on_device(batches: Iterable[Pieces], device: torch.device) -> Iterator[tuple[Tensor, ...]]:
    """Each batch joined from its pieces and on the device.

    On CUDA the copies come from pinned memory, run on a stream of their own and are one batch ahead.
    """
    if device.type != "cuda":
        for pieces in batches:
            yield _join(pieces, device)
        return

    copying = torch.cuda.Stream(device)
    staged: tuple[tuple[Tensor, ...], torch.cuda.Event] | None = None
    for pieces in batches:
        with torch.cuda.stream(copying):
            tensors, copied = _join(pieces, device), torch.cuda.Event()
            copied.record(copying)
        if staged is not None:
            yield _hand_over(*staged)
        staged = (tensors, copied)
    if staged is not None:
        yield _hand_over(*staged)


def _join(pieces: Pieces, device: torch.device) -> tuple[Tensor, ...]:
    kinds = zip(*pieces, strict=True)
    return tuple(torch.cat([piece.to(device, non_blocking=True) for piece in kind]) for kind in kinds)


def _hand_over(tensors: tuple[Tensor, ...], copied: torch.cuda.Event) -> tuple[Tensor, ...]:
    """Let the current stream wait for the copy, and keep the memory until that stream is done with it too."""
    current = torch.cuda.current_stream(tensors[0].device)
    current.wait_event(copied)
    for tensor in tensors:
        tensor.record_stream(current)
    return tensors
