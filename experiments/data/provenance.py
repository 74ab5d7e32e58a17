"""Which data a run has read, for its record: readers note what they give, `noted` gathers it.

An identity is a digest and what it is `of`, in words; `modified` is there if the data are knowingly not the
published ones, and says what they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.data.checksums import checksums
from experiments.errors import UserError
from experiments.text_files import read_utf8

if TYPE_CHECKING:
    import numpy as np

Identity = dict[str, str]

MODIFIED = "MODIFIED.txt"  # in the folder of a data set: what it is, in a line, if it is not as published

_listener: ContextVar[Callable[[str, Identity], None] | None] = ContextVar("data listener", default=None)


@contextmanager
def noted(listener: Callable[[str, Identity], None]) -> Iterator[None]:
    """Within, `listener` is called with name and identity of all data that are opened."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def note(name: str, identity: Callable[[], Identity]) -> None:
    """What a reader calls with the data it gives; the identity is computed only if somebody listens."""
    listener = _listener.get()
    if listener is not None:
        listener(name, identity())


def modification(folder: Path) -> str | None:
    """What MODIFIED.txt in the folder says of it in its first line; None without such a file."""
    file = folder / MODIFIED
    try:
        text = read_utf8(file).strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    if not text:
        raise UserError(f"{file} is empty: it must say in a line what was modified")
    return text.partition("\n")[0].strip()


def place_in_words(folder: Path) -> str:
    """For plans: the folder, and what MODIFIED.txt says of it."""
    modified = modification(folder)
    return str(folder) if modified is None else f"{folder}, not as published: {modified}"


def published(root: Path, folder: Path, files: Mapping[str, str], *, archive: str, remedy: str) -> Identity:
    """The identity of files in `folder` that have published MD5 sums, once these are checked.

    UserError that names a file with another sum, unless MODIFIED.txt says that this is meant to be so.
    archive: MD5 of the archive that they come in. remedy: what to do with damaged files.
    """
    modified = modification(folder)
    if modified is None:
        own = f"If it is meant to be another one, say in a line in {folder / MODIFIED} what it is"
        check_sums(root, folder, files, f"{remedy}. {own}; records will say so, too")
        return {"digest": f"md5:{archive}", "of": "the published archive, by the MD5 sums of its files"}
    found = dict(zip(files, checksums(root, [folder / name for name in files]), strict=True))
    return {**of_json(found, "the MD5 sums of its files"), "modified": modified}


def check_sums(
    root: Path, folder: Path, files: Mapping[str, str], remedy: str, algorithm: str = "md5"
) -> None:
    """UserError that names the first of the `files` in `folder` that has not its published checksum."""
    found = checksums(root, [folder / name for name in files], algorithm)
    for digest, (name, expected) in zip(found, files.items(), strict=True):
        if digest != expected:
            raise UserError(
                f"{folder / name} has {algorithm} {digest}, not {expected} as published: {remedy}"
            )


def of_arrays(*arrays: np.ndarray) -> Identity:
    """Of the values that were read, with their types and shapes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data if array.flags.c_contiguous else array.tobytes())
    return {"digest": f"sha256:{digest.hexdigest()}", "of": "the arrays as read"}


def of_json(content: object, of: str) -> Identity:
    """Of something small that identifies the data."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return {"digest": f"sha256:{hashlib.sha256(text.encode()).hexdigest()}", "of": of}
