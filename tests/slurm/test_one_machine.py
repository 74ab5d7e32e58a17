"""The one-machine SLURM of the tests does what a cluster does, and leaves the machine as it was."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.errors import UserError
from slurm.one_machine import OneMachine, Settings, host
from slurm.one_machine.daemons import until


def field(machine: OneMachine, job: str, name: str) -> str:
    """A field of what SLURM knows about a job, as JobState."""
    found = re.search(rf"\b{name}=(\S*)", machine.ask("scontrol", "show", "job", job))
    assert found
    return found[1]


def reaches(machine: OneMachine, job: str, state: str, seconds: float = 20) -> bool:
    return until(lambda: field(machine, job, "JobState") == state, seconds)


def submit(machine: OneMachine, folder: Path, script: str, *options: str) -> str:
    """Submit a job that needs next to nothing; its id. Its output goes to `<id>.out`."""
    common = ["--parsable", "--mem=50", f"--output={folder}/%j.out", f"--wrap={script}"]
    return machine.ask("sbatch", *common, *options).strip()


def pids(machine: OneMachine) -> dict[str, int | None]:
    return {daemon.name: daemon.pid for daemon in machine.daemons}


@pytest.fixture
def another(cluster: OneMachine) -> Iterator[OneMachine]:
    """A small cluster with sacct, not yet started, beside the one of the other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SLURM_CONF", raising=False)
        directory = Path(tempfile.mkdtemp(prefix="ivon-slurm-", dir="/tmp"))
        machine = OneMachine(Settings(directory=directory, nodes=1, accounting=True))
        try:
            yield machine
            machine.stop()
        finally:
            shutil.rmtree(directory)


# --- what it does as a cluster


@pytest.mark.slurm
def test_a_step_runs_on_both_nodes(quiet_cluster: OneMachine) -> None:
    answer = quiet_cluster.ask("srun", "--nodes=2", "--mem=50", "printenv", "SLURMD_NODENAME")
    assert sorted(answer.split()) == ["node1", "node2"]


@pytest.mark.slurm
def test_an_array_runs_each_element_once(quiet_cluster: OneMachine, tmp_path: Path) -> None:
    submit(quiet_cluster, tmp_path, "echo $SLURM_ARRAY_TASK_ID", "--array=0-3", f"--output={tmp_path}/%a.out")
    assert until(lambda: not quiet_cluster.ask("squeue", "-h"), 30)
    said = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert said == {f"{element}.out": f"{element}\n" for element in range(4)}


@pytest.mark.slurm
def test_fake_gpus_are_handed_out(quiet_cluster: OneMachine) -> None:
    one_node = ["srun", "--nodes=1", "--mem=50"]
    seen = ["printenv", "CUDA_VISIBLE_DEVICES"]
    assert quiet_cluster.ask(*one_node, "--gpus=2", *seen).strip() == "0,1"
    # no two tasks the same one
    assert sorted(quiet_cluster.ask(*one_node, "--ntasks=2", "--gpus-per-task=1", *seen).split()) == [
        "0",
        "1",
    ]
    with pytest.raises(subprocess.CalledProcessError):
        quiet_cluster.ask(*one_node, "--gpus=3", "true")


@pytest.mark.slurm
def test_a_preempted_job_is_told_and_runs_again(quiet_cluster: OneMachine, tmp_path: Path) -> None:
    """Its step gets the signal it asked for and keeps on; when the time of grace is over it is requeued."""
    step = "trap 'echo told' USR2; trap '' TERM; while true; do sleep 0.2; done"
    weak = ["--partition=low", "--nodelist=node1", "--requeue", "--open-mode=append", "--signal=USR2@30"]
    job = submit(quiet_cluster, tmp_path, f'echo started; srun bash -c "{step}"', *weak)
    assert reaches(quiet_cluster, job, "RUNNING")
    log = tmp_path / f"{job}.out"
    assert until(lambda: log.exists() and "started" in log.read_text(), 10)
    until(lambda: False, 1)  # the step's traps stand a moment after its start; nothing tells when
    strong = ["--partition=main", "--nodelist=node1", "--nodes=1", "--ntasks=2"]
    other = submit(quiet_cluster, tmp_path, "true", *strong)
    # 10 s of grace, looked at every 30 s at worst, 5 s until the kill
    assert reaches(quiet_cluster, other, "COMPLETED", 60)
    assert field(quiet_cluster, job, "Restarts") == "1"
    assert reaches(quiet_cluster, job, "RUNNING")
    assert until(lambda: log.read_text().count("started") == 2, 10)
    assert "told" in log.read_text()


@pytest.mark.slurm
def test_a_crash_of_slurmctld_keeps_the_queue(quiet_cluster: OneMachine, tmp_path: Path) -> None:
    running = submit(quiet_cluster, tmp_path, "sleep 60")
    waiting = submit(quiet_cluster, tmp_path, "true", "--hold")
    assert reaches(quiet_cluster, running, "RUNNING")
    # It saves its state every few seconds; of what is younger a crash leaves nothing.
    state = quiet_cluster.directory / "state/job_state"
    before = state.stat().st_mtime_ns if state.exists() else 0
    quiet_cluster.ask("scontrol", "update", f"jobid={waiting}", "comment=changed")
    assert until(lambda: state.exists() and state.stat().st_mtime_ns > before, 15)
    quiet_cluster.kill("slurmctld")
    with pytest.raises(subprocess.CalledProcessError):
        quiet_cluster.ask("scontrol", "ping")
    quiet_cluster.restart("slurmctld")
    assert field(quiet_cluster, running, "JobState") == "RUNNING"
    assert field(quiet_cluster, waiting, "JobState") == "PENDING"
    quiet_cluster.ask("scontrol", "release", waiting)
    assert reaches(quiet_cluster, waiting, "COMPLETED")


@pytest.mark.slurm
def test_a_start_repairs_what_has_crashed_and_nothing_else(quiet_cluster: OneMachine, tmp_path: Path) -> None:
    job = submit(quiet_cluster, tmp_path, "sleep 60", "--nodelist=node1")
    assert reaches(quiet_cluster, job, "RUNNING")
    before = pids(quiet_cluster)
    quiet_cluster.start()
    assert pids(quiet_cluster) == before
    quiet_cluster.kill("slurmd.node1")
    assert pids(quiet_cluster) == before | {"slurmd.node1": None}
    assert not quiet_cluster.runs
    quiet_cluster.start()
    after = pids(quiet_cluster)
    assert after.pop("slurmd.node1") not in {None, before.pop("slurmd.node1")}
    assert after == before
    assert field(quiet_cluster, job, "JobState") == "RUNNING"
    assert field(quiet_cluster, job, "Restarts") == "0"


# --- what it does to the machine


@pytest.mark.slurm
def test_a_cluster_with_accounts_from_its_start_to_its_end(cluster: OneMachine, another: OneMachine) -> None:
    another.start()
    assert another.runs and cluster.runs
    # Its database asks nobody who he is; its socket is to be reached by root alone.
    assert (another.directory / "db" / "socket").is_socket()
    assert not (another.directory / "db").stat().st_mode & 0o077
    another.ask("srun", "--mem=50", "true")
    finished = ["sacct", "--noheader", "--allocations", "--state=COMPLETED", "--format=State"]
    # slurmdbd hears of the first job some seconds later
    assert until(lambda: "COMPLETED" in another.ask(*finished, "--starttime=now-1hour", "--endtime=now"), 20)

    # Steps whose slurmd has crashed are nobody's children.
    submit(another, another.directory / "log", "trap '' TERM; setsid sleep 600 & srun sleep 600")
    another_daemons = set(pids(another).values())
    # two slurmstepd, the shell, the sleep in a session of its own, srun (twice) and its sleep
    assert until(lambda: len(set(another.processes()) - another_daemons) >= 7, 20)
    another.kill("slurmd.node1")
    another.kill("slurmctld")
    strays = set(another.processes()) - another_daemons
    assert len(strays) >= 7

    another.stop()
    assert another.processes() == []
    assert not [pid for pid in strays if Path(f"/proc/{pid}/exe").exists()]
    assert f"{another.directory}/" not in host.HOSTS.read_text()
    assert OneMachine.saved(another.directory) is None
    assert [path.name for path in another.directory.iterdir()] == ["log"]
    assert cluster.runs
    cluster.ask("scontrol", "ping")


@pytest.mark.slurm
def test_other_settings_are_refused_while_it_runs(cluster: OneMachine) -> None:
    with pytest.raises(UserError, match="other settings"):
        OneMachine(Settings(directory=cluster.directory, nodes=3)).start()


@pytest.mark.slurm
def test_a_directory_with_other_files_is_refused(another: OneMachine) -> None:
    precious = another.directory / "my.conf"
    precious.touch()
    with pytest.raises(UserError, match="not its own"):
        another.start()
    precious.rename(precious.with_suffix(".kept"))
    another.stop()
    assert precious.with_suffix(".kept").exists()
