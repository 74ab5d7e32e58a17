"""A lock between processes, and writing so that others see the whole file or none."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
