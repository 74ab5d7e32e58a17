"""Whatever a cluster does to a job, its run ends in the same bits as one that nobody disturbed."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from baselines.settings import IVON
from experiments.engine import checkpoint
from experiments.engine.distributed import single
from experiments.engine.execute import execute
from experiments.engine.record import Store
from experiments.engine.spec import TrainSpec
from experiments.engine.watch import Watch
from experiments.status import state_of
from slurm.launcher import Whereabouts
from slurm.one_machine import OneMachine
from slurm.queue import live_elements

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(400)]


def training(epochs: int) -> TrainSpec:
    return TrainSpec(
        dataset="digits", model="resnet20", width=2, epochs=epochs, method=IVON(lr=0.2, beta2=0.99), seed=1
    )


SPEC = training(epochs=7)  # 140 steps: some five seconds


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Callable[[TrainSpec], Store]:
    """A store in which this process has run the specification itself."""
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    threads = torch.get_num_threads()

    def run(spec: TrainSpec) -> Store:
        torch.set_num_threads(1)
        try:
            assert execute(spec, store, single(torch.device("cpu")), Watch()).end == "done"
        finally:
            torch.set_num_threads(threads)
        return store

    return run


def outcome(store: Store, spec: TrainSpec) -> tuple:
    """All that a run leaves, but for the time it took."""
    record = store.done(spec)
    assert record, f"{spec.label}: {state_of(spec, store, Whereabouts(store))}"
    result = {name: value for name, value in record["result"].items() if name != "seconds"}
    saved = checkpoint.load(store.folder(spec), spec.id, warn=print)
    assert saved is not None
    return result, {name: w.tolist() for name, w in saved["network"]["model"].items()}


# --- what a cluster does to a job; each is told the cluster, the job and the process that trains


def preempt(cluster: OneMachine, job: str, worker: int) -> None:
    whole = ("--partition=main", "--nodes=2", "--exclusive")
    cluster.ask("sbatch", *whole, "--output=/dev/null", "--wrap=sleep 5")


def requeue(cluster: OneMachine, job: str, worker: int) -> None:
    cluster.ask("scontrol", "requeue", job)


def announce_the_time_limit(cluster: OneMachine, job: str, worker: int) -> None:
    cluster.ask("scancel", "--signal=USR2", job)


def kill_the_worker(cluster: OneMachine, job: str, worker: int) -> None:
    os.kill(worker, signal.SIGKILL)


def kill_all_of_the_job(cluster: OneMachine, job: str, worker: int) -> None:
    launcher = parent_of(worker)
    os.kill(launcher, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)


def fail_the_node(cluster: OneMachine, job: str, worker: int) -> None:
    node = cluster.ask("squeue", "--noheader", "--format=%N", f"--jobs={job}").strip()
    cluster.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    cluster.ask("scontrol", "update", f"nodename={node}", "state=resume")


def restart_the_daemons(cluster: OneMachine, job: str, worker: int) -> None:
    for name in ("slurmctld", "slurmd.node1", "slurmd.node2"):
        cluster.kill(name)
        cluster.restart(name)


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


ATTEMPTS = {
    preempt: 2,
    requeue: 2,
    announce_the_time_limit: 2,
    kill_the_worker: 2,
    kill_all_of_the_job: 2,
    fail_the_node: 2,
    restart_the_daemons: 1,  # the job does not notice
}


SIDE_BY_SIDE = (requeue, announce_the_time_limit, kill_the_worker, kill_all_of_the_job)  # none meets another
ALONE = [(disturb,) for disturb in ATTEMPTS if disturb not in SIDE_BY_SIDE]


@pytest.mark.parametrize(
    "disturbances", [SIDE_BY_SIDE, *ALONE], ids=lambda together: " ".join(one.__name__ for one in together)
)
def test_ends_in_the_same_bits(
    disturbances, quiet_cluster, submit, in_work, wait_until, undisturbed, tmp_path
):
    """The same run for each, in a store of its own; jobs of four have a processor each."""
    stores = {disturb: Store(tmp_path / disturb.__name__) for disturb in disturbances}
    jobs = {
        disturb: submit([SPEC], store, partition="low" if disturb is preempt else "main")[0].job
        for disturb, store in stores.items()
    }
    for disturb, store in stores.items():
        disturb(quiet_cluster, jobs[disturb], in_work(SPEC, store))
    wait_until(lambda: all(store.is_over(SPEC) for store in stores.values()), seconds=250)
    for disturb, store in stores.items():
        assert outcome(store, SPEC) == outcome(undisturbed(SPEC), SPEC), disturb
        record = store.load(SPEC)
        assert record and record["machine"]["attempts"] == ATTEMPTS[disturb]  # it was disturbed, once


def test_a_cancelled_job_stays_cancelled_until_it_is_submitted_again(
    quiet_cluster, store, submit, in_work, wait_until, undisturbed
):
    submit([SPEC], store)
    worker = in_work(SPEC, store)
    (job,) = {place.job for place in live_elements()}
    quiet_cluster.ask("scancel", job)
    wait_until(lambda: not live_elements() and not Path(f"/proc/{worker}").exists())
    time.sleep(8)  # a job that puts itself back into the queue would be there by now
    assert not live_elements()
    assert state_of(SPEC, store, Whereabouts(store)).startswith("stopped: its job was cancelled")
    submit([SPEC], store)
    wait_until(lambda: store.is_over(SPEC), seconds=100)
    assert outcome(store, SPEC) == outcome(undisturbed(SPEC), SPEC)


@pytest.mark.slow  # three minutes
def test_beyond_its_time_limit_a_job_goes_on_by_itself(
    quiet_cluster, store, submit, wait_until, undisturbed, tmp_path
):
    """The limit of three minutes is announced after 90 seconds; SLURM may do so a minute earlier still."""
    record = undisturbed(SPEC).load(SPEC)
    assert record
    spec = training(epochs=round(SPEC.epochs * 120 / record["result"]["seconds"]))
    at_ease = Store(tmp_path / "at ease")
    submit([spec], store, time_limit_minutes=3, signal_seconds=90)
    submit([spec], at_ease)
    wait_until(lambda: store.is_over(spec) and at_ease.is_over(spec), seconds=380)
    attempts = [s.load(spec)["machine"]["attempts"] for s in (store, at_ease)]
    assert attempts[0] >= 2 and attempts[1] == 1
    assert outcome(store, spec) == outcome(at_ease, spec)


@pytest.mark.parametrize(
    ("death", "starts"),
    [("os.kill(os.getpid(), signal.SIGKILL)", 3), ("os._exit(3)", 1)],  # by a mistake: it would be made again
    ids=["killed", "by a mistake"],
)
def test_a_job_that_dies_at_once_ends_as_failed(
    death, starts, quiet_cluster, store, submit, wait_until, tmp_path
):
    (tmp_path / "sitecustomize.py").write_text(
        f"import os, signal\nopen({str(tmp_path / 'starts')!r}, 'a').write('x')\n{death}\n"
    )
    submit([SPEC], store, environment={"PYTHONPATH": str(tmp_path)})
    wait_until(lambda: state_of(SPEC, store, Whereabouts(store)).startswith("failed"), seconds=100)
    assert (tmp_path / "starts").read_text() == starts * "x"
    wait_until(lambda: not live_elements())
