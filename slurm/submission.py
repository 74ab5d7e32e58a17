"""What was submitted: one folder per job array, written before SLURM hears of it.

The array's name in the queue is the folder's, so the queue alone tells which runs wait or run, even if the
process that submitted them died before it learnt the job's number.
"""

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.engine import files
from experiments.engine.record import Store
from slurm.queue import Element

PREFIX = "ivon-"
FOLDER = "slurm"  # below the root of the store


@dataclass(frozen=True)
class Submission:
    """`tasks[i]` has the ids of the runs of element i of the array."""

    folder: Path
    tasks: list[list[str]]
    time: float  # seconds since 1970

    @property
    def name(self) -> str:
        return self.folder.name

    def logs(self, index: int) -> list[Path]:
        """What element `index` has printed; none before it has run, or if nodes do not see this folder."""
        # JOB_INDEX_TASK_log.out of an array, JOB_TASK_log.out of a job alone.
        middle = f"_{index}" if len(self.tasks) > 1 else ""
        return [
            path for kind in ("out", "err") for path in sorted(self.folder.glob(f"*{middle}_*_log.{kind}"))
        ]

    def given_up(self, index: int) -> str:
        """The exit status with which element `index` ended for good by itself; empty if it has not."""
        path = self.folder / f"given-up-{index}"
        return path.read_text().strip() if path.exists() else ""


def new(store: Store, tasks: list[list[str]], **facts: Any) -> Submission:
    """Write a submission down, before it is made."""
    root = store.root / FOLDER
    root.mkdir(parents=True, exist_ok=True)
    # The time first, so that names sort by age.
    folder = root / f"{PREFIX}{time.strftime('%y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
    folder.mkdir()
    now = time.time()
    content = json.dumps({"time": now, **facts, "tasks": tasks})
    files.replace(folder / "submission.json", content.encode())
    return Submission(folder, tasks, now)


def submissions(store: Store) -> Iterator[Submission]:
    """All there are, the newest first."""
    for folder in sorted((store.root / FOLDER).glob(f"{PREFIX}*"), reverse=True):
        try:
            content = json.loads((folder / "submission.json").read_text())
        except (FileNotFoundError, PermissionError):
            continue  # its writer died, and nothing was submitted; or another user submits just now
        yield Submission(folder, content["tasks"], content["time"])


@dataclass(frozen=True)
class Place:
    """Where a run was last submitted."""

    submission: Submission
    index: int
    element: Element | None  # in the queue; None once SLURM has let go of it


def places(store: Store, elements: list[Element]) -> dict[str, Place]:
    """Of every run that was ever submitted: where it waits or runs, else where it was submitted last."""
    live = {(element.name, element.index): element for element in elements}
    found: dict[str, Place] = {}
    for submission in submissions(store):
        for index, task in enumerate(submission.tasks):
            element = live.get((submission.name, index))
            for run in task:
                if run not in found or (element and not found[run].element):
                    found[run] = Place(submission, index, element)
    return found
