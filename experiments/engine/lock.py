"""One process per run: a lock that the kernel gives back when its holder dies, however it dies."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.errors import UserError

# What flock says on a cluster's disk that is mounted without it.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def claim(folder: Path) -> Iterator[bool]:
    """Hold the run in `folder` if nobody does: True; False if another process holds it. UserError where files
    cannot be locked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        try:
            flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, folder)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)  # releases the lock; the file stays, or a third process could lock another one


def flock(descriptor: int, operation: int, folder: Path) -> None:
    """`fcntl.flock` of a file in `folder`; UserError where files cannot be locked."""
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise UserError(
            f"files in {folder} cannot be locked ({error.strerror}), so two processes might do one run; "
            "choose another disk with --runs, or mount this one with locks (Lustre: -o flock, NFS: lockd)"
        ) from None


def is_claimed(folder: Path) -> bool:
    """Whether some process holds the run now."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDONLY)  # one may look into a folder of somebody else
    except FileNotFoundError:
        return False
    try:
        flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, folder)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
