"""A real SLURM for the tests that submit jobs; `make slurm-test` runs them."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments.engine import log
from experiments.engine.record import Store
from experiments.engine.spec import Spec
from experiments.errors import RunError, UserError
from slurm.one_machine import OneMachine, Settings
from slurm.one_machine.members import FOREIGN
from slurm.one_machine.packages import install
from slurm.profile import Cluster
from slurm.submit import Submitted
from slurm.submit import submit as submit_runs

REQUIRED = os.environ.get("IVON_SLURM_REQUIRED") == "1"
ACCOUNTING = os.environ.get("IVON_SLURM_ACCOUNTING") == "1"


@pytest.fixture(scope="session")
def cluster() -> Iterator[OneMachine]:
    """Two nodes of two CPUs and two fake GPUs. $SLURM_CONF leads to it.

    Even where there is another cluster: its jobs are not ours to preempt, its daemons not ours to kill.
    Without sacct, as many clusters are, unless IVON_SLURM_ACCOUNTING=1.
    """
    directory = Path(tempfile.mkdtemp(prefix="ivon-slurm-", dir="/tmp"))  # a socket's path must be short
    with pytest.MonkeyPatch.context() as patch:
        try:
            settings = Settings(directory=directory, gpus=2, accounting=ACCOUNTING)
            machine = OneMachine(settings)
            _need_packages(settings)
            for name in [name for name in os.environ if name.startswith(FOREIGN)]:
                patch.delenv(name)  # of the job that runs the tests, if one does
            patch.setenv("SLURM_CONF", machine.environment["SLURM_CONF"])
            try:
                machine.start()
                yield machine
            finally:
                machine.stop()
        finally:
            shutil.rmtree(directory)


def _need_packages(settings: Settings) -> None:
    """Skip the test where there can be no SLURM; under IVON_SLURM_REQUIRED=1 let it fail."""
    if os.geteuid() != 0 and not REQUIRED:
        pytest.skip("needs a real SLURM, which only root can start")
    try:
        install(settings.accounting, settings.directory / "apt.log")
    except (UserError, RunError) as error:
        if REQUIRED:
            raise
        pytest.skip(str(error))


@pytest.fixture
def quiet_cluster(cluster: OneMachine) -> Iterator[OneMachine]:
    """The same with an empty queue, and emptied afterwards."""
    cluster.cancel_jobs()
    yield cluster
    cluster.cancel_jobs()


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "runs")


@pytest.fixture
def submit() -> Callable[..., list[Submitted]]:
    """`submit(specs, store, partition="low")`: what is missing, with changes to the profile; the arrays."""
    profile = {"partition": "main", "time_limit_minutes": 30, "signal_seconds": 10, "mem_gb": 1.0}

    def submit(
        specs: list[Spec], store: Store, *, processes: int = 1, seconds: float | None = None, **changes
    ) -> list[Submitted]:
        cluster = Cluster(**{**profile, "checkpoint_seconds": 0.5, **changes})
        return submit_runs(specs, store, cluster, lambda _: processes, lambda _: seconds).arrays

    return submit


@pytest.fixture
def wait_until() -> Callable[..., None]:
    def wait(true: Callable[[], bool], *, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end
            time.sleep(0.2)

    return wait


@pytest.fixture
def in_work(wait_until) -> Callable[[Spec, Store], int]:
    """Wait until the run has a checkpoint and is not over; the number of the process that trains."""

    def wait(spec: Spec, store: Store) -> int:
        folder = store.folder(spec)
        wait_until(lambda: any(folder.glob("checkpoint-*.pt")), seconds=100)
        assert not store.is_over(spec)
        return log.last(folder)["pid"]

    return wait
