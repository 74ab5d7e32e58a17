"""Submitting: what is missing of an artefact becomes job arrays, through submitit."""

import fcntl
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
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
from slurm.job import Job
from slurm.joint import DIED
from slurm.profile import ROOT, Cluster
from slurm.submission import FOLDER, new, places

DEATHS = 3  # of a job that did not live for long in between: then it is given up
LONG_SECONDS = 1800
QUESTIONS, QUESTION_SECONDS = 30, 10  # of a job that would go back into the queue
EVER = 1_000_000  # times that a job may reach its time limit: its end is when its runs are over


@dataclass(frozen=True)
class Submitted:
    """One array that SLURM has accepted."""

    job: str
    needs: Needs
    jobs: int
    runs: int


def submit(
    specs: list[Spec],
    store: Store,
    cluster: Cluster,
    processes: Callable[[Training], int],
    seconds: Seconds,
) -> tuple[list[Submitted], int]:
    """Submit what is missing of `specs`; the arrays, and how many runs were queued or running already."""
    queue.require_slurm()
    with _alone(store):
        # First the queue and then the records, as a run may end between the two.
        known = places(store, queue.live_elements())
        jobs = {run: place.element.job for run, place in known.items() if place.element}
        waiting = sum(spec.id in jobs for spec in specs if not store.is_over(spec))
        submitted: list[Submitted] = []
        for _ in range(2):  # mixtures come after their members
            left = bundles(specs, over=store.is_over, jobs=jobs, processes=processes)
            for needs, together in tasks(left, cluster, seconds).items():
                for begin in range(0, len(together), ARRAY_LIMIT):
                    chunk = together[begin : begin + ARRAY_LIMIT]
                    job = _submit_array(chunk, needs, store, cluster)
                    runs = [spec.id for task in chunk for bundle in task for spec in bundle.specs]
                    submitted.append(Submitted(job, needs, len(chunk), len(runs)))
                    jobs |= dict.fromkeys(runs, job)
    return submitted, waiting


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """One submitter at a time, or two would both find the same runs missing."""
    folder = store.root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        lock.flock(file.fileno(), fcntl.LOCK_EX, folder)
        yield


def _submit_array(together: list[list[Bundle]], needs: Needs, store: Store, cluster: Cluster) -> str:
    """The number that SLURM gave to it; UserError with SLURM's own words if it refuses."""
    runs = [[spec for bundle in task for spec in bundle.specs] for task in together]
    versions = code_versions()
    submission = new(store, [[spec.id for spec in task] for task in runs], needs=_shown(needs), **versions)
    executor = submitit.SlurmExecutor(submission.folder, max_num_timeout=EVER)
    executor.update_parameters(**_parameters(submission.folder, needs, cluster))
    work = [
        Job(
            root=str(store.root.absolute()),
            specs=[spec.model_dump(mode="json") for spec in task],
            device=cluster.device,
            processes=needs.processes,
            side_by_side=needs.side_by_side,
            checkpoint_seconds=cluster.checkpoint_seconds,
            signal_seconds=float(cluster.signal_seconds),
            data_scratch=cluster.data_scratch,
            versions=versions,
        )
        for task in runs
    ]
    said = StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):  # submitit prints the script that was refused
            return executor.submit_array(work)[0].job_id.partition("_")[0]
    except submitit.core.utils.FailedJobError as error:
        words = _words(str(error))
        try:
            job = _number(submission.name)
        except RunError:
            # The submission stays written down, so that the runs are not submitted again if it was taken.
            raise RunError(
                f"SLURM may have the job {submission.name} or not, and does not answer: {words}"
            ) from None
        if not job:
            (submission.folder / "submission.json").unlink()
            raise UserError(f"SLURM refused the job: {words}") from None
        _leave_work(submission.folder, job, work, needs.minutes)
        return job


def _number(name: str) -> str:
    """That of the array with this name, which SLURM may have though its answer was lost; empty if not."""
    return next((e.job.partition("_")[0] for e in queue.live_elements() if e.name == name), "")


def _leave_work(folder: Path, job: str, work: list[Job], minutes: int) -> None:
    """Put the work where a job looks for it in its first minute, as submitit does once it has the number."""
    for index, task in enumerate(work):
        delayed = submitit.helpers.DelayedSubmission(task)
        delayed.set_timeout(minutes, EVER)
        paths = submitit.core.utils.JobPaths(folder, f"{job}_{index}" if len(work) > 1 else job)
        with submitit.core.utils.temporary_save_path(paths.submitted_pickle) as aside:
            delayed.dump(aside)


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
