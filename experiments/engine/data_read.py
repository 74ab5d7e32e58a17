"""What data a run has read: for its record, and so that its attempts all read the same."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.data import provenance
from experiments.engine import files
from experiments.engine.record import REACHED
from experiments.errors import RunError

NAME = "data.json"  # in a run's folder


@contextmanager
def data_read(folder: Path) -> Iterator[dict[str, provenance.Identity]]:
    """The identities, by name, of all data that are opened within.

    They are kept in the run's folder at once. RunError if an earlier attempt, which has left something to go
    on from, has read others: half of its result would be of data that the record does not name.
    """
    before = _read(folder) if _goes_on(folder) else {}
    found: dict[str, provenance.Identity] = {}

    def listen(name: str, identity: provenance.Identity) -> None:
        if before.get(name, identity) != identity:
            raise RunError(
                f"the data {name} are not those that this run has begun with ({identity['digest']}, not "
                f"{before[name]['digest']}): put them back, or remove {folder} to begin anew"
            )
        if found.get(name) != identity:
            found[name] = identity
            files.replace(folder / NAME, json.dumps({**before, **found}).encode())

    with provenance.noted(listen):
        yield found


def _goes_on(folder: Path) -> bool:
    return (folder / REACHED).exists() or any(folder.glob("checkpoint-*.pt"))


def _read(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / NAME).read_bytes())
    except (OSError, ValueError):  # of an attempt by a version that kept none, or damaged
        return {}
    return content if isinstance(content, dict) else {}
