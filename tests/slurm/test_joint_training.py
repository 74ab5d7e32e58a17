"""Trainings that several tasks share: which are refused, and what a task does when it cannot do its part."""

import signal
import subprocess
import threading
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from baselines.settings import IVON, SGD
from experiments.engine import lock
from experiments.engine.gpus import DEVICE_LOST
from experiments.engine.local import Options
from experiments.engine.progress import display
from experiments.engine.record import Store
from experiments.engine.spec import TrainSpec
from experiments.errors import UserError
from slurm import joint, launcher
from slurm.grouping import Needs
from slurm.profile import Cluster
from slurm.submit import Outcome, _parameters

SPEC = TrainSpec(dataset="digits", model="resnet20", method=SGD(lr=0.1))


@pytest.fixture
def task(monkeypatch, tmp_path):
    """`task(rank, script)`: one of two tasks, whose process is this shell script."""
    real = subprocess.Popen

    def make(rank: int, script: str) -> joint.Joint:
        monkeypatch.setattr(
            joint.subprocess, "Popen", lambda _command, **options: real(["sh", "-c", script], **options)
        )
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        options = Options(jobs=1, device="cpu", processes=2)
        return joint.Joint(Store(tmp_path), options, display([SPEC]))

    return make


@pytest.mark.parametrize(
    ("rank", "script", "status"),
    [
        (1, f"exit {DEVICE_LOST}", joint.DIED),  # the others would wait for it
        (1, "kill -9 $$", joint.DIED),
        (0, "exit 1", joint.DIED),
        (1, "exit 1", None),  # what the first process has to say counts
        (0, """echo '{"end": "failed", "why": "RunError: no luck"}'; exit 0""", None),
    ],
)
def test_task_dies_with_its_process_so_that_the_job_tries_again(rank, script, status, task):
    if status is None:
        assert task(rank, script)._train(SPEC, port=1)
    else:
        with pytest.raises(SystemExit) as left:
            task(rank, script)._train(SPEC, port=1)
        assert left.value.code == status


BUSY = """echo '{"end": "busy", "why": ""}'"""


def test_training_that_another_process_keeps_is_tried_again_by_the_job(task, monkeypatch, tmp_path):
    """Else its evaluations would wait for it for ever."""
    monkeypatch.setattr(joint, "BUSY_SECONDS", 0.0)
    monkeypatch.setattr(joint, "POLL_SECONDS", 0.01)
    with lock.claim(Store(tmp_path).folder(SPEC)), pytest.raises(SystemExit) as left:
        task(0, BUSY)._train(SPEC, port=1)
    assert left.value.code == joint.DIED
    with lock.claim(Store(tmp_path).folder(SPEC)):
        Store(tmp_path).add(SPEC, {"failure": None, "result": {}, "machine": {}})
        assert task(0, BUSY)._train(SPEC, port=1)  # its record is there, and that is all that is needed


def test_training_begins_once_another_process_lets_go_of_it(task, monkeypatch, tmp_path):
    monkeypatch.setattr(joint, "POLL_SECONDS", 0.01)
    folder = Store(tmp_path).folder(SPEC)
    kept = ExitStack()
    kept.enter_context(lock.claim(folder))
    threading.Timer(0.1, kept.close).start()
    # As the worker, it needs the lock. Without a word from it the task ends.
    script = f"""flock --nonblock {folder}/lock echo '{{"end": "done", "why": ""}}'"""
    assert task(0, script)._train(SPEC, port=1)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_task_that_is_told_to_stop_begins_no_other_training(rank, task, monkeypatch, tmp_path):
    """It would be killed as it starts, and SLURM would end all tasks for that, while the first makes way."""
    group = SimpleNamespace(rank=rank, master_port=1)
    environment = SimpleNamespace(export=lambda **_: group)
    monkeypatch.setattr(joint.submitit.helpers, "TorchDistributedEnvironment", lambda: environment)
    say = """echo '{"end": "done", "why": ""}';""" if rank == 0 else ""
    work = task(rank, f"trap '' TERM; echo x >> {tmp_path}/begun; {say} kill -USR2 $PPID")
    assert not work.run([SPEC, SPEC.model_copy(update={"seed": 1})], (signal.SIGUSR2,))
    assert work.stopped_by == signal.SIGUSR2
    assert (tmp_path / "begun").read_text() == "x\n"


def test_training_that_the_usual_number_of_gpus_cannot_share_is_not_submitted(tmp_path):
    """Before SLURM is asked for anything."""
    method = IVON(lr=0.1, sync=True)
    spec = TrainSpec(dataset="imagenet", model="resnet50", method=method, batch_size=1024, shares=4)
    cluster = Cluster(time_limit_minutes=60, gpus_per_node=8)
    with pytest.raises(UserError, match=r"^8 processes \(--processes says otherwise\): must divide shares 4"):
        launcher.run([spec], Store(tmp_path), cluster, None, [])


@pytest.mark.parametrize(
    ("cluster", "processes", "words"),
    [
        (Cluster(time_limit_minutes=60, gpus_per_node=3), None, "8 processes .*: 3 nodes that take 3 each"),
        (Cluster(time_limit_minutes=60, processes_per_node=3), 4, None),
        (Cluster(time_limit_minutes=60, processes_per_node=4), 5, "5 processes .*: 2 nodes that take 4 each"),
        (Cluster(time_limit_minutes=60, gpus_per_node=8), 12, None),
    ],
)
def test_training_gets_all_its_processes_or_is_not_submitted(
    cluster, processes, words, monkeypatch, tmp_path
):
    """SLURM gives each node of a job equally many tasks."""
    spec = TrainSpec(dataset="imagenet", model="resnet50", method=SGD(lr=0.1), batch_size=1920)
    monkeypatch.setattr(launcher, "_fetch_data", lambda *_: None)
    monkeypatch.setattr(launcher, "submit", lambda *_: Outcome(waiting=0))
    if words is None:
        assert launcher.run([spec], Store(tmp_path), cluster, processes, []) == ([], [])
        return
    with pytest.raises(UserError, match=words):
        launcher.run([spec], Store(tmp_path), cluster, processes, [])
    Store(tmp_path).add(spec, {"failure": None, "result": {}, "machine": {}})
    # nothing is left to share
    assert launcher.run([spec], Store(tmp_path), cluster, processes, []) == ([], [])


def test_the_first_task_may_stay_longer_than_the_others_for_its_evaluations(tmp_path):
    """Also where a cluster's WaitTime says otherwise."""
    needs = Needs(nodes=1, processes=2, side_by_side=1, minutes=60, after=frozenset())
    assert "--wait=0" in _parameters(tmp_path, needs, Cluster(time_limit_minutes=60))["srun_args"]


def test_typed_number_of_processes_is_refused_at_once(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("time_limit_minutes = 60\ngpus_per_node = 4\n")
    with pytest.raises(
        UserError, match=r"^--processes 5: 2 nodes that take 4 each cannot share them evenly$"
    ):
        launcher.check(str(path), None, 5)
