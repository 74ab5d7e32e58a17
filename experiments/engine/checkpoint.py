"""Checkpoints of a run: replaced atomically, the previous one kept, checked when they are read.

The file name carries the SHA-256 of the content, so a truncated or altered file is recognised, and the
content carries the specification's id, so another run's file is. Reading goes back to the last good one.
"""

import hashlib
import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from experiments.engine import files
from experiments.errors import RunError

KEPT = 2


def save(folder: Path, spec_id: str, step: int, state: dict[str, Any]) -> Path:
    """Write the state at `step`, a number that grows over the whole run; then drop all but the newest two."""
    buffer = io.BytesIO()
    torch.save({"spec_id": spec_id, "step": step, "state": state}, buffer)
    payload = buffer.getvalue()
    path = folder / f"checkpoint-{step:09d}-{hashlib.sha256(payload).hexdigest()[:32]}.pt"
    files.replace(path, payload)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def load(folder: Path, spec_id: str, *, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest good state, on the CPU; None if there is none. A bad file is named in one line and set
    aside.
    """
    for path in _newest_first(folder):
        state, complaint = _read(path, spec_id)
        if not complaint:
            return state
        warn(f"checkpoint {path} {complaint}; set aside, going back to the one before it")
        with suppress(FileNotFoundError):  # another process of the same run was faster
            path.rename(path.with_suffix(".rejected"))
    return None


def of_whole_training(
    folder: Path, spec_id: str, *, rounds: int, count: str, warn: Callable[[str], None]
) -> dict[str, Any]:
    """The last state of a training, whose field `count` says how many of its `rounds` it has done; RunError
    if it is gone or not the end.
    """
    saved = load(folder, spec_id, warn=warn)
    if saved is None or saved[count] < rounds:
        raise RunError(
            f"the trained network in {folder} is gone although its record exists; "
            f"remove {folder}.json to train it again"
        )
    return saved


def _read(path: Path, spec_id: str) -> tuple[dict[str, Any], str]:
    """The state, or what is wrong with the file."""
    try:
        payload = path.read_bytes()
    except FileNotFoundError:
        return {}, "is gone"
    if hashlib.sha256(payload).hexdigest()[:32] != path.stem.rpartition("-")[2]:
        return {}, "is truncated or altered"
    try:
        content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        owner, state = content["spec_id"], content["state"]
    except Exception as error:  # whatever a file that is none of ours makes torch.load raise
        return {}, f"is not one of this program ({type(error).__name__})"
    if not (isinstance(owner, str) and isinstance(state, dict)):
        return {}, "is not one of this program (its content is of other types)"
    return (state, "") if owner == spec_id else ({}, f"belongs to run {owner}")


def exists(folder: Path) -> bool:
    return bool(_newest_first(folder))


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*.pt"), reverse=True)
