"""What a job does on its node: the local launcher's work, and what a cluster may do to it meanwhile.

A job is told to make way by USR2, before its time limit or a preemption, where the cluster says so at all: it
has its workers write checkpoints, and puts itself back into the queue. SIGTERM comes before a kill, of a
cancelled job too: it has them write checkpoints, and waits for SLURM to do what it has decided. Whatever
comes without a warning costs what was done since the last checkpoint.

`python -m slurm.job FOLDER SETTINGS` is what a job runs. The settings are on its command line, which SLURM
keeps; its runs are read from the folder, as data: a pickle would be code of whoever can write there.
"""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import submitit

from experiments.engine.local import Launcher, Options
from experiments.engine.progress import display
from experiments.engine.record import Store
from experiments.engine.spec import Spec, parse_spec
from experiments.errors import RunError, UserError
from experiments.paths import user_path
from experiments.termination import TERMINATED, Terminated, raise_when_terminated
from slurm import queue
from slurm.joint import DIED, Joint
from slurm.profile import ROOT
from slurm.scratch import use_copies
from slurm.version import note_skew

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
MADE_WAY = 128 + signal.SIGUSR2  # exit status
END_SECONDS = 3600.0  # SLURM, which has announced the end of the job, has so long to end it
VISIBLE_SECONDS = 60  # until a node sees what was written elsewhere


@dataclass(frozen=True, kw_only=True)
class Job:
    """How the elements of a submission do their work."""

    root: str  # of the store
    device: str
    processes: int
    side_by_side: int
    checkpoint_seconds: float
    signal_seconds: float  # before its end the job makes way
    data_scratch: str | None
    versions: dict[str, str | None]  # at the submission

    def arguments(self, folder: Path) -> list[str]:
        """Of `python`."""
        return ["-u", "-m", "slurm.job", str(folder), json.dumps(asdict(self))]

    def __call__(self, specs: list[Spec]) -> None:
        """Run what is not over; a training comes before the evaluations that need it."""
        environment = submitit.JobEnvironment()
        leads = environment.global_rank == 0

        def make_way(*_: Any) -> None:
            if leads:  # a quarter of the time, as the stop may have taken half of it
                _make_way(environment.job_id, self.signal_seconds / 4)

        signal.signal(signal.SIGUSR2, make_way)
        _announce_the_end(environment.job_id, self.signal_seconds)
        note_skew(self.versions)
        if self.data_scratch:
            use_copies(specs, user_path(self.data_scratch, "data_scratch", base=ROOT))
        store = Store(Path(self.root))
        shown = display(specs)
        options = Options(
            jobs=self.side_by_side,
            device=self.device,
            processes=self.processes,
            checkpoint_seconds=self.checkpoint_seconds,
            patience=self.signal_seconds / 2,
            log=environment.paths.stderr,
        )
        launcher: Launcher | Joint
        if self.processes > 1:
            launcher = Joint(store, options, shown)
        else:
            launcher = Launcher(store, options, shown)
            specs = [spec for spec in specs if not store.is_over(spec)]
        finished = launcher.run(specs, STOP_SIGNALS)
        shown.close()
        if not finished and leads:
            if launcher.stopped_by == signal.SIGUSR2:
                make_way()
            _await_the_end()


def work_file(folder: Path, index: int) -> Path:
    """Where the runs of element `index` are told."""
    return folder / f"work-{index}.json"


def _read_work(file: Path) -> list[Spec]:
    for _ in range(VISIBLE_SECONDS):
        try:
            return [parse_spec(spec) for spec in json.loads(file.read_text())]
        except FileNotFoundError:
            time.sleep(1)
    raise RunError(f"{file} is not to be seen on this node")


def _await_the_end() -> None:
    print("stopped; SLURM ends this job", file=sys.stderr, flush=True)
    time.sleep(END_SECONDS)
    sys.exit(TERMINATED)


def _make_way(job: str, patience: float) -> None:
    """Put this job back into the queue and leave; return if SLURM has decided on it already.

    If the controller stays away for longer than `patience` seconds, leave too: the job's script asks further.
    """
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # SLURM may announce the end a second time
    end = time.monotonic() + patience
    while True:
        try:
            if queue.state_of(job) != "RUNNING":
                return
            queue.requeue(job)
            sys.exit(MADE_WAY)
        except RunError as error:
            if time.monotonic() > end:
                print(f"cannot go back into the queue now: {error}", file=sys.stderr, flush=True)
                sys.exit(DIED)
        time.sleep(queue.PAUSE_SECONDS)


def _announce_the_end(job: str, seconds: float) -> None:
    """Send this process the signal so long before the time limit; SLURM itself may never do it."""
    try:
        left = queue.seconds_left(job)
    except RunError:  # the controller is down; SLURM's own signal may still come
        return
    if left is None:
        return
    end = time.monotonic() + left

    def announce() -> None:
        time.sleep(max(0.0, end - seconds - time.monotonic()))
        os.kill(os.getpid(), signal.SIGUSR2)

    threading.Thread(target=announce, daemon=True).start()


def main(folder: str, settings: str) -> None:
    """The work of this element; its exit status tells the job's script."""
    raise_when_terminated()
    os.environ["SUBMITIT_FOLDER"] = folder
    try:
        index = int(submitit.JobEnvironment().array_task_id or 0)
        Job(**json.loads(settings))(_read_work(work_file(Path(folder), index)))
    except Terminated:
        _await_the_end()
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
