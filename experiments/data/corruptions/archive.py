"""The published arrays: CIFAR-10-C/<corruption>.npy and labels.npy, as they come out of the archive."""

from pathlib import Path

import numpy as np

from experiments.data.corruptions.source import ARCHIVES, LABELS
from experiments.errors import UserError

PER_SEVERITY = 10_000
SHAPE = (5 * PER_SEVERITY, 32, 32, 3)  # the test set five times, from severity 1 to 5


def read_published(folder: Path, corruption: str, severity: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (10000, 32, 32, 3), mapped from the file, and labels int64 (10000,)."""
    part = slice((severity - 1) * PER_SEVERITY, severity * PER_SEVERITY)
    images = _read(folder / f"{corruption}.npy", SHAPE)
    labels = _read(folder / f"{LABELS}.npy", SHAPE[:1])
    return images[part], labels[part].astype(np.int64)


def _read(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    try:
        # Written to by nobody, but PyTorch warns of arrays that cannot be: "c" keeps writes in memory.
        array = np.load(file, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"cannot read {file} ({' '.join(str(error).split())}): complete the folder from "
            f"{ARCHIVES[file.parent.name]}, or move it away, and the images are made"
        ) from error
    if array.dtype != np.uint8 or array.shape != shape:
        raise UserError(f"{file} must hold uint8 {shape}, found {array.dtype} {array.shape}")
    return array
