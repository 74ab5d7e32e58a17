"""Submitting: what is missing of an artefact becomes job arrays, through submitit."""

import fcntl
import json
import os
import re
import shlex
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import submitit

from experiments.data.root import VARIABLE
from experiments.engine import lock
from experiments.engine.record import Store
from experiments.engine.revision import code_versions
from experiments.engine.spec import Spec, Training
from experiments.errors import RunError, UserError
from slurm import queue
from slurm.grouping import ARRAY_LIMIT, Bundle, Needs, Seconds, bundles, tasks
from slurm.job import Job, work_file
from slurm.joint import DIED
from slurm.profile import ROOT, Cluster
from slurm.submission import FOLDER, new, places

DEATHS = 3  # of a job that did not live for long in between: then it is given up
LONG_SECONDS = 1800
QUESTIONS, QUESTION_SECONDS = 30, 10  # of a job that would go back into the queue
# SLURM's reasons: QOSMaxSubmitJobPerUserLimit, AssocGrpSubmitJobsLimit and the like
SUBMIT_LIMIT = re.compile(r"\w*SubmitJob\w*Limit")
PERHAPS_SUBMIT_LIMIT = "job submit limit"  # one of several that SLURM's error itself may mean


@dataclass(frozen=True)
class Submitted:
    """One array that SLURM has accepted."""

    job: str
    needs: Needs
    jobs: int
    runs: int


@dataclass
class Outcome:
    """What came of a submission."""

    waiting: int  # runs that were queued or running already
    arrays: list[Submitted] = field(default_factory=list)
    left: list[Spec] = field(default_factory=list)  # not submitted, as SLURM takes no more at the moment
    limit: str = ""  # SLURM's words about that

    @property
    def runs(self) -> int:
        return sum(array.runs for array in self.arrays)


class _Refused(UserError):
    """SLURM's own words."""


def submit(
    specs: list[Spec],
    store: Store,
    cluster: Cluster,
    processes: Callable[[Training], int],
    seconds: Seconds,
) -> Outcome:
    """Submit what is missing of `specs`, or as much of it as SLURM takes from one user."""
    queue.require_slurm()
    with _alone(store):
        # First the queue and then the records, as a run may end between the two.
        known = places(store, queue.live_elements())
        jobs = {run: place.element.job for run, place in known.items() if place.element}
        outcome = Outcome(sum(spec.id in jobs for spec in specs if not store.is_over(spec)))
        most = cluster.max_array_size or queue.max_array_size() or ARRAY_LIMIT
        for _ in range(2):  # mixtures come after their members
            left = bundles(specs, over=store.is_over, jobs=jobs, processes=processes)
            for needs, together in tasks(left, cluster, seconds).items():
                if not outcome.limit:
                    _submit_in_portions(together, most, needs, store, cluster, outcome, jobs)
        if outcome.limit:
            outcome.left = [spec for spec in specs if spec.id not in jobs and not store.is_over(spec)]
    return outcome


def _submit_in_portions(
    together: list[list[Bundle]],
    most: int,
    needs: Needs,
    store: Store,
    cluster: Cluster,
    outcome: Outcome,
    jobs: dict[str, str],
) -> None:
    """As arrays of at most so many jobs, and of fewer once SLURM takes no more from this user."""
    while together:
        portion = together[:most]
        try:
            job = _submit_array(portion, needs, store, cluster)
        except _Refused as refused:
            limit = SUBMIT_LIMIT.search(str(refused))
            if not limit and PERHAPS_SUBMIT_LIMIT not in str(refused):
                raise _with_what_was_taken(refused, outcome) from None
            if len(portion) > 1:
                most = len(portion) // 2
                continue
            if not limit and not outcome.arrays and not outcome.waiting:
                raise  # this job is too much for the cluster, rather than one more
            outcome.limit = limit[0] if limit else str(refused)
            return
        runs = [spec.id for task in portion for bundle in task for spec in bundle.specs]
        outcome.arrays.append(Submitted(job, needs, len(portion), len(runs)))
        jobs |= dict.fromkeys(runs, job)
        together = together[most:]


def _with_what_was_taken(refused: _Refused, outcome: Outcome) -> UserError:
    before = f"; {outcome.runs} runs were submitted before that, and stay" if outcome.arrays else ""
    return UserError(f"{refused}{before}")


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """One submitter at a time, or two would both find the same runs missing."""
    folder = store.root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        lock.flock(descriptor, fcntl.LOCK_EX, folder)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _for_its_owner_alone(folder: Path) -> Iterator[None]:
    """While the script lies there that SLURM is about to read, and in which nobody else is to write."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    folder.chmod(0o700)
    try:
        yield
    finally:
        if folder.exists():
            folder.chmod(mode & ~0o022)


def _submit_array(together: list[list[Bundle]], needs: Needs, store: Store, cluster: Cluster) -> str:
    """The number that SLURM gave to it; _Refused with SLURM's own words if it refuses."""
    runs = [[spec for bundle in task for spec in bundle.specs] for task in together]
    versions = code_versions()
    submission = new(store, [[spec.id for spec in task] for task in runs], needs=_shown(needs), **versions)
    with _for_its_owner_alone(submission.folder):
        for index, task in enumerate(runs):
            content = json.dumps([spec.model_dump(mode="json") for spec in task])
            work_file(submission.folder, index).write_text(content)
        job = Job(
            root=str(store.root.absolute()),
            device=cluster.device,
            processes=needs.processes,
            side_by_side=needs.side_by_side,
            checkpoint_seconds=cluster.checkpoint_seconds,
            signal_seconds=float(cluster.signal_seconds),
            data_scratch=cluster.data_scratch,
            versions=versions,
        )
        executor = submitit.SlurmExecutor(submission.folder)
        executor.update_parameters(**_parameters(submission.folder, needs, cluster))
        if len(runs) > 1:
            executor.parameters["map_count"] = len(runs)
        command = shlex.join([sys.executable, *job.arguments(submission.folder)])
        said = StringIO()
        try:
            with redirect_stdout(said), redirect_stderr(said):  # submitit prints the script that was refused
                # Not `submit_array`, which leaves a pickle for the job to load.
                return executor._submit_command(command).job_id
        except submitit.core.utils.FailedJobError as error:
            words = _words(str(error))
            try:
                number = _number(submission.name)
            except RunError:
                # The submission stays written down: else the runs are submitted again if it was taken.
                raise RunError(
                    f"SLURM may have the job {submission.name} or not, and does not answer: {words}"
                ) from None
            if not number:
                shutil.rmtree(submission.folder)
                raise _Refused(f"SLURM refused the job: {words}") from None
            return number


def _number(name: str) -> str:
    """That of the array with this name, which SLURM may have though its answer was lost; empty if not."""
    return next((e.job.partition("_")[0] for e in queue.live_elements() if e.name == name), "")


def _shown(needs: Needs) -> dict[str, Any]:
    return {**needs.__dict__, "after": sorted(needs.after)}


def _words(error: str) -> str:
    """SLURM's own complaint, without submitit's account of how it was called."""
    lines = [line for line in error.splitlines() if line.startswith("sbatch: error")]
    return "; ".join(line.removeprefix("sbatch: error: ") for line in lines) or " ".join(error.split())


def _parameters(folder: Path, needs: Needs, cluster: Cluster) -> dict[str, Any]:
    """In the words of submitit's SlurmExecutor."""
    share = needs.processes // needs.nodes  # GPUs on each node, or runs on a node without GPUs
    slots = share if cluster.gpus_per_node else max(share, needs.side_by_side)
    wishes = {
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "dependency": f"afterany:{':'.join(sorted(needs.after))}" if needs.after else None,
    }
    if cluster.gpu_type:
        wishes["gres"] = f"gpu:{cluster.gpu_type}:{share}"
    elif cluster.gpus_per_node:
        wishes["gpus_per_node"] = share
    tasks_per_node = share if needs.processes > 1 else 1
    # The data root as it was read here, where data have been fetched to: ~ and a relative path would be read
    # by the node's shell and in another folder.
    environment = {**cluster.environment, VARIABLE: str(cluster.data_root)}
    return {
        **{name: value for name, value in wishes.items() if value is not None},
        "job_name": folder.name,
        "nodes": needs.nodes,
        "ntasks_per_node": tasks_per_node,
        "cpus_per_task": cluster.cpus * slots // tasks_per_node,
        "mem": f"{round(1024 * cluster.mem_gb * slots)}M",
        "time": needs.minutes,
        "signal_delay_s": cluster.signal_seconds,
        "array_parallelism": cluster.max_running,
        "setup": [*(f"export {k}={_quoted(v)}" for k, v in environment.items()), *cluster.setup],
        "teardown": _again_if_killed(folder),
        # The first task has evaluations to do after the others have left, where a cluster has WaitTime too.
        "srun_args": ["--kill-on-bad-exit=1", "--wait=0"],
        "additional_parameters": {"requeue": True, "chdir": str(ROOT), **cluster.sbatch},
    }


def _quoted(value: str) -> str:
    """For the shell, which is to fill in the node's own variables; between quotes it leaves ~ alone."""
    value = re.sub(r"^~(?=/|$)", "$HOME", value)
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("`", "\\`") + '"'


def _again_if_killed(folder: Path) -> list[str]:
    """Shell lines after the work: what was killed, by whatever but SLURM, goes back into the queue.

    SLURM itself brings back what it has preempted or what a failing node has taken along; then, and after a
    cancellation, the job is no longer RUNNING here. An element of an array is named by the array, because the
    number of one of them is that of the whole array. A controller that is away is asked again: until it is
    back, no time limit ends this job.
    """
    name = shlex.quote(str(folder)) + '/{}-"${{SLURM_ARRAY_TASK_ID:-0}}"'
    deaths, given_up = name.format("deaths"), name.format("given-up")
    return [
        "status=$?",
        'job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"',
        'job="${job:-$SLURM_JOB_ID}"',
        'if [ "$status" -ne 0 ]; then',
        f"    for _ in $(seq {QUESTIONS}); do",
        '        state="$(squeue --noheader --format=%T --jobs="$job")" && break',
        f"        sleep {QUESTION_SECONDS}",
        "    done",
        "fi",
        'if [ "$status" -ne 0 ] && [ "$state" = RUNNING ]; then',
        f'    [ "$SECONDS" -lt {LONG_SECONDS} ] || rm -f {deaths}',
        f"    printf x >> {deaths}",
        f'    if [ "$(stat --format=%s {deaths})" -lt {DEATHS} ] &&',
        f'        {{ [ "$status" -gt 128 ] || [ "$status" -eq {DIED} ]; }}; then',
        '        scontrol requeue "$job"',
        "    else",
        f'        echo "$status" > {given_up}',
        "    fi",
        "fi",
        'exit "$status"',
    ]
