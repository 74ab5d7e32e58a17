"""Arrays that are made from files once and kept beside them, with a digest that tells damage."""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from experiments.data.checksums import checksums
from experiments.data.readers.disk import exclusive, written_whole
from experiments.errors import UserError


def kept_array(
    file: Path, shape: tuple[int, ...], sources: list[str], make: Callable[[], np.ndarray]
) -> tuple[np.ndarray, str]:
    """uint8 of this shape, mapped from `file`, for which one process of several makes it if need be; and its
    SHA-256, that of `file`.

    sources: names of the files that it is made from, in its order; it is made again if they are others.
    """
    stamp = hashlib.sha256("\n".join(sources).encode("utf-8", "surrogateescape")).hexdigest()
    found = _read_kept(file, shape, stamp)
    if found is not None:
        return found
    array = None
    try:
        with exclusive(file.with_name(f".{file.name}.lock")):
            found = _read_kept(file, shape, stamp)  # another process may have made it meanwhile
            if found is not None:
                return found
            array = make()
            digest = _digest(array)
            with written_whole(file) as temporary:
                np.save(temporary, array)
            with written_whole(_facts(file)) as temporary:
                temporary.write_text(json.dumps({"sources": stamp, "sha256": digest}), encoding="utf-8")
    except OSError as error:  # a full or read-only disk
        print(f"not kept for next time, {file}: {error.strerror or error}", file=sys.stderr)
    if array is None:
        array = make()
    return array, _digest(array)


def _facts(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def _read_kept(file: Path, shape: tuple[int, ...], stamp: str) -> tuple[np.ndarray, str] | None:
    try:
        facts: Any = json.loads(_facts(file).read_bytes())
        if facts["sources"] != stamp or checksums(file.parent, [file], "sha256") != [facts["sha256"]]:
            return None
        array = np.load(file, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError, KeyError, TypeError, UserError):  # none yet, or damaged
        return None
    return (array, facts["sha256"]) if array.dtype == np.uint8 and array.shape == shape else None


class _Hashed:
    """A file to `np.save` that keeps nothing but the digest."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return len(content)


def _digest(array: np.ndarray) -> str:
    """That of the file that `np.save` writes."""
    stream = _Hashed()
    np.save(cast(Any, stream), array)
    return stream.digest.hexdigest()
