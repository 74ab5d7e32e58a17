"""A lock between processes, writing so that others see the whole file or none, arrays that are made once."""

import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


@contextmanager
def exclusive(file: Path) -> Iterator[None]:
    """Wait for the lock `file`, then hold it; the kernel frees it if the holder dies."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # the file stays: were it removed, two processes could hold one lock each


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """A temporary name to write to, which becomes `file` at the end or, after an error, disappears."""
    temporary = file.with_name(f".{os.getpid()}-{file.name}")  # the ending stays: np.save would add its own
    try:
        temporary.unlink(missing_ok=True)  # of a process that was killed, or a link that somebody has laid
        temporary.touch(exist_ok=False)
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def kept_array(file: Path, shape: tuple[int, ...], make: Callable[[], np.ndarray]) -> np.ndarray:
    """uint8 of this shape, mapped from `file`, for which one process of several makes it if need be."""
    array = _read_kept(file, shape)
    if array is not None:
        return array
    try:
        with exclusive(file.with_name(f".{file.name}.lock")):
            array = _read_kept(file, shape)  # another process may have made it meanwhile
            if array is None:
                array = make()
                with written_whole(file) as temporary:
                    np.save(temporary, array)
    except OSError as error:  # a full or read-only disk
        print(f"not kept for next time, {file}: {error.strerror or error}", file=sys.stderr)
    return make() if array is None else array


def _read_kept(file: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        array = np.load(file, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # none yet, or half of one
        return None
    return array if array.dtype == np.uint8 and array.shape == shape else None
