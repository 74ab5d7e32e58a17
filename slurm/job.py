"""What a job does on its node: the local launcher's work, and what a cluster may do to it meanwhile.

A job is told to make way by USR2, before its time limit or a preemption, where the cluster says so at all: it
has its workers write checkpoints, and puts itself back into the queue. SIGTERM comes before a kill, of a
cancelled job too: it has them write checkpoints, and waits for SLURM to do what it has decided. Whatever
comes without a warning costs what was done since the last checkpoint.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from experiments.engine.local import Launcher, Options
from experiments.engine.progress import display
from experiments.engine.record import Store
from experiments.engine.spec import parse_spec
from experiments.errors import RunError
from experiments.paths import user_path
from slurm import queue
from slurm.joint import DIED, Joint
from slurm.profile import ROOT
from slurm.scratch import use_copies
from slurm.version import note_skew

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
END_SECONDS = 3600.0  # SLURM, which has announced the end of the job, has so long to end it


@dataclass(frozen=True, kw_only=True)
class Job:
    """The runs of one element of a submission; plain data, which submitit pickles."""

    root: str  # of the store
    specs: list[dict[str, Any]]  # a training before the evaluations that need it
    device: str
    processes: int
    side_by_side: int
    checkpoint_seconds: float
    signal_seconds: float  # before its end the job makes way
    data_scratch: str | None
    versions: dict[str, str | None]  # at the submission

    def __call__(self) -> dict[str, str]:
        """Run what is not over; which runs have failed, and why."""
        environment = submitit.JobEnvironment()
        make_way = signal.getsignal(signal.SIGUSR2)  # submitit's: it requeues
        _announce_the_end(environment.job_id, self.signal_seconds)
        note_skew(self.versions)
        specs = [parse_spec(spec) for spec in self.specs]
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
        if not finished and environment.global_rank == 0:
            if launcher.stopped_by == signal.SIGUSR2:
                # A quarter of the time, as the stop may have taken half of it.
                _make_way(environment.job_id, make_way, self.signal_seconds / 4)  # type: ignore[arg-type]
            print("stopped; SLURM ends this job", file=sys.stderr, flush=True)
            time.sleep(END_SECONDS)
            sys.exit(128 + signal.SIGTERM)
        return launcher.failed

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """For submitit: what to run when the job is back, the same, as all that was reached is in files."""
        return submitit.helpers.DelayedSubmission(self)


def _make_way(job: str, requeue: Callable[[int, Any], None], patience: float) -> None:
    """Put this job back into the queue, unless SLURM has decided on it already; then return.

    SystemExit if the controller stays away for longer than `patience` seconds: the job's script asks further.
    """
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # SLURM may announce the end a second time
    end = time.monotonic() + patience
    while True:
        try:
            if queue.state_of(job) == "RUNNING":
                requeue(signal.SIGUSR2, None)  # does not return
            return
        except (RunError, subprocess.SubprocessError) as error:
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
