"""One record per run: a JSON file that is written once, when the run is over, and never changed.

A run is done when its record exists; it is resumable when its folder holds a checkpoint; otherwise it is new.
A run whose loss stops being finite would fail again, so it has a record too, with `failure` in place of
metrics.

`data` has the identities of the data that the run has read, by name (`experiments.data.provenance`). Records
from before it was kept have none.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.engine import files
from experiments.engine.spec import Spec
from experiments.errors import RunError

FORMAT = 1
FIELDS = {"id", "spec", "failure", "result", "machine"}
REACHED = "reached.json"  # in a run's folder: what an attempt leaves for the next one; goes with the last


@dataclass(frozen=True)
class Store:
    """The records and run folders below one root (`results/runs` or `results/reference`)."""

    root: Path

    def path(self, spec: Spec) -> Path:
        return self.root / spec.experiment / f"{spec.id}.json"

    def folder(self, spec: Spec) -> Path:
        """Where the run keeps its checkpoints and its log."""
        return self.root / spec.experiment / spec.id

    def is_over(self, spec: Spec) -> bool:
        return self.path(spec).exists()

    def load(self, spec: Spec) -> dict[str, Any] | None:
        """The record of `spec`, failed or not; None if there is none."""
        try:
            return self.read(self.path(spec))
        except FileNotFoundError:
            return None

    def read(self, path: Path) -> dict[str, Any]:
        """The record in a file of this store."""
        return _parse(path.read_text(errors="replace"), path)

    def done(self, spec: Spec) -> dict[str, Any] | None:
        """The record of `spec` if the run came to its end with metrics."""
        record = self.load(spec)
        return record if record and not record["failure"] else None

    def add(self, spec: Spec, record: dict[str, Any]) -> None:
        """Link the record into place; the first one stays if two processes finish the same run."""
        path = self.path(spec)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.create(
            path, encode({"format": FORMAT, "id": spec.id, "spec": spec.model_dump(mode="json"), **record})
        )

    def remove_temporaries(self, spec: Spec) -> None:
        """Clear away what killed attempts have half written; for the process that holds the run's lock."""
        files.remove_temporaries(self.folder(spec))
        files.remove_temporaries(self.path(spec).parent, self.path(spec).name)

    def copy_to(self, other: "Store", specs: list[Spec]) -> int:
        """Copy the records of `specs`, failures too, as they are results; returns how many there were.

        None is copied if one is damaged.
        """
        found = [(other.path(spec), record) for spec in specs if (record := self.load(spec))]
        for path, record in found:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.replace(path, encode(record))
        return len(found)

    def all(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self.root.glob("*/*.json")):
            yield self.read(path)


@dataclass(frozen=True)
class Snapshot(Store):
    """The records as they were when first asked for: drawing asks for the same thousands several times."""

    # By the identity of a specification, which is kept, too: an id takes as long as reading its record.
    _read: dict[int, tuple[Spec, dict[str, Any] | None]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def load(self, spec: Spec) -> dict[str, Any] | None:
        if id(spec) not in self._read:
            self._read[id(spec)] = spec, super().load(spec)
        return self._read[id(spec)][1]


def encode(data: dict[str, Any]) -> bytes:
    """JSON as committed: sorted keys, one field a line at the top, numbers that read back exactly."""
    lines = (f"  {json.dumps(key)}: {json.dumps(data[key], sort_keys=True)}" for key in sorted(data))
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise RunError(f"record {path} is not JSON ({error}); remove it to repeat the run") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT or not record.keys() >= FIELDS:
        raise RunError(f"record {path} is not of format {FORMAT}; remove it to repeat the run")
    if record["id"] != path.stem:
        raise RunError(f"record {path} is of another run, {record['id']}; remove it to repeat the run")
    return record
