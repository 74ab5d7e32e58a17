"""Checksums of data files, each computed once: remembered by path, size and times of change.

The memory is `.checksums.json` in the data root, or the user's cache where that is read-only (`remembered`).
"""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.data.remembered import places, remember
from experiments.errors import UserError

NAME = ".checksums.json"
CHUNK_BYTES = 1 << 22
SAID_BYTES = 1 << 30  # so much takes seconds: a line says what they are for


def checksums(root: Path, files: Sequence[Path], algorithm: str = "md5") -> list[str]:
    """In hexadecimal, of files below the data root; UserError that names one which cannot be read."""
    memory = _remembered(root)
    keys = [f"{algorithm} {os.path.relpath(file, root)}" for file in files]
    states = [_state(file) for file in files]
    known = {key: memory[key] for key in keys if key in memory}
    new = [
        (key, file, state)
        for key, file, state in zip(keys, files, states, strict=True)
        if known.get(key, [])[:-1] != state
    ]
    if sum(state[0] for _, _, state in new) >= SAID_BYTES:
        print(f"computing checksums in {new[0][1].parent}, once", file=sys.stderr, flush=True)
    for key, file, state in new:
        known[key] = [*state, _digest(file, algorithm)]
    if new:
        whole = json.dumps({**_remembered(root), **known}, indent=0)
        remember(root / NAME, lambda file: file.write_text(whole, encoding="utf-8"))
    return [known[key][-1] for key in keys]


def _state(file: Path) -> list[int]:
    """What changes when the content does. The time of modification alone can be set to anything."""
    try:
        found = file.stat()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _digest(file: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    return digest.hexdigest()


def _remembered(root: Path) -> dict[str, Any]:
    """By algorithm and path: size, times and checksum."""
    memory: dict[str, Any] = {}
    for place in places(root / NAME):
        with suppress(OSError, ValueError, RecursionError):  # none yet, or damaged
            content = json.loads(place.read_bytes())
            if isinstance(content, dict):
                memory |= {key: value for key, value in content.items() if _is_entry(value)}
    return memory


def _is_entry(value: Any) -> bool:
    return isinstance(value, list) and [type(part) for part in value] == [int, int, int, str]
