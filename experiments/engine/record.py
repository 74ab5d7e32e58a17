"""One record per run: a JSON file that is written once, when the run is over, and never changed.

A run is done when its record exists; it is resumable when its folder holds a checkpoint; otherwise it is new.
A run whose loss stops being finite would fail again, so it has a record too, with `failure` in place of
metrics.

`data` has the identities of the data that the run has read, by name (`experiments.data.provenance`). Records
from before it was kept have none.

A record that is damaged counts as none for whoever does not need it: it is named once, and the others go on.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments import strict_json
from experiments.engine import files
from experiments.engine.spec import Spec
from experiments.engine.spec.base import shortened
from experiments.errors import UserError

FORMAT = 1
REACHED = "reached.json"  # in a run's folder: what an attempt leaves for the next one; goes with the last


class DamagedRecord(UserError):
    """A record that cannot be believed: one line names the file, what is wrong and the remedy."""

    def __init__(self, path: Path, what: str) -> None:
        self.what = shortened(what, 300)
        super().__init__(f"record {path} {self.what}; remove it to repeat the run")


@dataclass(frozen=True)
class Store:
    """The records and run folders below one root (`results/runs` or `results/reference`)."""

    root: Path
    _named: set[Path] = field(default_factory=set, repr=False, compare=False)  # damaged ones, once each

    def path(self, spec: Spec) -> Path:
        return self.root / spec.experiment / f"{spec.id}.json"

    def folder(self, spec: Spec) -> Path:
        """Where the run keeps its checkpoints and its log."""
        return self.root / spec.experiment / spec.id

    def is_over(self, spec: Spec) -> bool:
        """Whether there is a record, be it damaged: the run is not repeated before it is removed."""
        return self.path(spec).exists()

    def load(self, spec: Spec) -> dict[str, Any] | None:
        """The record of `spec`, failed or not; None if there is none, or if it is damaged."""
        return self._read_or_name(self.path(spec))

    def ids(self) -> set[str]:
        """Those of all runs that have a record, be it damaged: sooner known than by asking for each."""
        return {path.stem for path in self.root.glob("*/*.json")}

    def why_failed(self, spec: Spec) -> str:
        """Why the run is over without metrics, or what is wrong with its record; empty if neither is so."""
        try:
            failure = self.read(self.path(spec))["failure"]
        except FileNotFoundError:
            return ""
        except DamagedRecord as damaged:
            return str(damaged)
        return failure["reason"] if failure else ""

    def read(self, path: Path) -> dict[str, Any]:
        """The record in a file of this store; DamagedRecord if it is none that could be believed."""
        from experiments.engine.record_check import complaint  # what only lists runs does without

        try:
            record = strict_json.parse(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(path) from None
        except OSError as error:
            raise DamagedRecord(path, f"cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise DamagedRecord(path, str(error)) from None
        if what := complaint(record, path.stem):
            raise DamagedRecord(path, what)
        return record

    def _read_or_name(self, path: Path) -> dict[str, Any] | None:
        try:
            return self.read(path)
        except FileNotFoundError:
            return None
        except DamagedRecord as damaged:
            if path not in self._named:
                self._named.add(path)
                print(f"left out: {damaged}", file=sys.stderr, flush=True)
            return None

    def done(self, spec: Spec) -> dict[str, Any] | None:
        """The record of `spec` if the run came to its end with metrics."""
        record = self.load(spec)
        return record if record and not record["failure"] else None

    def add(self, spec: Spec, record: dict[str, Any]) -> None:
        """Link the record into place; the first one stays if two processes finish the same run."""
        path = self.path(spec)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.create(path, _whole(spec, record))

    def objection(self, spec: Spec, record: dict[str, Any]) -> str:
        """Why `record`, as it is given to `add`, would be called damaged when read; empty if it is good."""
        from experiments.engine.record_check import complaint

        try:
            return complaint(strict_json.parse(_whole(spec, record)), spec.id)
        except ValueError as error:  # a number that is not finite
            return str(error)

    def remove_temporaries(self, spec: Spec) -> None:
        """Clear away what killed attempts have half written; for the process that holds the run's lock."""
        files.remove_temporaries(self.folder(spec))
        files.remove_temporaries(self.path(spec).parent, self.path(spec).name)

    def copy_to(self, other: "Store", specs: list[Spec]) -> int:
        """Copy the records of `specs`, failures too, as they are results; returns how many there were."""
        found = [(other.path(spec), record) for spec in specs if (record := self.load(spec))]
        for path, record in found:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.replace(path, encode(record))
        return len(found)

    def all(self, experiment: str = "*") -> Iterator[dict[str, Any]]:
        """All records, or those of one experiment, but for damaged ones."""
        for path in sorted(self.root.glob(f"{experiment}/*.json")):
            if record := self._read_or_name(path):
                yield record


@dataclass(frozen=True)
class Snapshot(Store):
    """For drawing: the records as they were when first asked for, as it asks for the same thousands several
    times, and of them those that have all that is drawn.
    """

    # By the identity of a specification, which is kept, too: an id takes as long as reading its record.
    _read: dict[int, tuple[Spec, dict[str, Any] | None]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @classmethod
    def of(cls, store: Store) -> "Snapshot":
        """Of a store that may have named damaged records already."""
        return cls(store.root, store._named)

    def load(self, spec: Spec) -> dict[str, Any] | None:
        if id(spec) not in self._read:
            self._read[id(spec)] = spec, super().load(spec)
        return self._read[id(spec)][1]

    def read(self, path: Path) -> dict[str, Any]:
        from experiments.engine.record_parts import lacking

        record = super().read(path)
        if what := lacking(record):
            raise DamagedRecord(path, what)
        return record


def _whole(spec: Spec, record: dict[str, Any]) -> bytes:
    return encode({"format": FORMAT, "id": spec.id, "spec": spec.model_dump(mode="json"), **record})


def encode(data: dict[str, Any]) -> bytes:
    """JSON as committed: sorted keys, one field a line at the top, numbers that read back exactly."""
    lines = (f"  {json.dumps(key)}: {json.dumps(data[key], sort_keys=True)}" for key in sorted(data))
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()
