"""Writing to disk so that a kill at any instruction leaves the old file or the new one, never half of one."""

import os
from pathlib import Path

from experiments.errors import RunError, UserError


def sync_folder(folder: Path) -> None:
    """Make a rename or link inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_temporary(path: Path, payload: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a process that was killed, or a link that somebody has laid
        with temporary.open("xb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror}") from error
    return temporary


def replace(path: Path, payload: bytes) -> None:
    """Write `payload` to `path`, atomically replacing what was there."""
    os.replace(_write_temporary(path, payload), path)
    sync_folder(path.parent)


def create(path: Path, payload: bytes) -> bool:
    """Write `payload` to `path` unless it exists; False if another process was first."""
    temporary = _write_temporary(path, payload)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    sync_folder(path.parent)
    return True


def remove_temporaries(folder: Path, name: str = "*") -> None:
    """Remove what kills have left of writes to `name` in `folder`; for whoever alone may write there now."""
    for left in folder.glob(f".{name}.*.tmp"):
        left.unlink(missing_ok=True)


def writable_folder(folder: Path) -> Path:
    """`folder`, made if need be; UserError if it cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"results folder {folder} is not writable: {error.strerror}") from None
    return folder
