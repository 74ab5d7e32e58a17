"""Files that only the user, or root, can have put where they are: what is run must be such a file."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Foreign(PermissionError):
    """Another user can change what lies there. Says, in one line, where that comes from."""


def own_folder(folder: Path, mode: int = 0o700) -> Path:
    """The folder without links in its path, made if need be, in which nobody else can put or swap anything.

    Foreign if somebody else can: through the folder, or through one above it. They are looked at from the
    root down. What was found safe cannot be changed by others, so what is looked at next stays where it is.
    """
    folder = Path(os.path.realpath(folder))
    for place in (*reversed(folder.parents), folder):
        if not os.path.lexists(place):
            place.mkdir(mode, exist_ok=True)  # another process may be as far
        if os.name == "posix":
            status = place.lstat()
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(f"{place} is not a folder")
            # In a folder such as /tmp, which is sticky, one can remove and rename one's own only.
            _check(place, status, harmless=place != folder and bool(status.st_mode & stat.S_ISVTX))
    return folder


def open_own(file: Path) -> BinaryIO:
    """Open a file for reading; Foreign if somebody else can have written it, OSError if it is a link."""
    no_surprise = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # nor wait, if it is a pipe
    stream = os.fdopen(os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0) | no_surprise), "rb")
    try:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{file} is not a file")
        if os.name == "posix":
            _check(file, status)
    except OSError:
        stream.close()
        raise
    return stream


def _check(place: Path, status: os.stat_result, *, harmless: bool = False) -> None:
    """`harmless`: although others may write there."""
    # The number of root is that of / where a container shows it as another one.
    if status.st_uid not in (os.geteuid(), 0, Path("/").lstat().st_uid):
        raise Foreign(f"{place} belongs to another user")
    if status.st_mode & OTHERS_WRITE and not harmless:
        raise Foreign(f"others can write to {place} (chmod go-w)")
