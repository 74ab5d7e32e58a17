"""Trainings that several tasks share: which are refused, and what a task does when its part dies."""

import subprocess

import pytest

from baselines.settings import IVON, SGD
from experiments.engine.gpus import DEVICE_LOST
from experiments.engine.local import Options
from experiments.engine.progress import display
from experiments.engine.record import Store
from experiments.engine.spec import TrainSpec
from experiments.errors import UserError
from slurm import joint, launcher
from slurm.profile import Cluster


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
def test_task_dies_with_its_process_so_that_the_job_tries_again(rank, script, status, monkeypatch, tmp_path):
    real = subprocess.Popen
    monkeypatch.setattr(
        joint.subprocess, "Popen", lambda _command, **options: real(["sh", "-c", script], **options)
    )
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    spec = TrainSpec(dataset="digits", model="resnet20", method=SGD(lr=0.1))
    task = joint.Joint(Store(tmp_path), Options(jobs=1, device="cpu", processes=2), display([spec]))
    if status is None:
        assert task._train(spec, port=1)
    else:
        with pytest.raises(SystemExit) as left:
            task._train(spec, port=1)
        assert left.value.code == status


def test_training_that_the_usual_number_of_gpus_cannot_share_is_not_submitted(tmp_path):
    """Before SLURM is asked for anything."""
    method = IVON(lr=0.1, sync=True)
    spec = TrainSpec(dataset="imagenet", model="resnet50", method=method, batch_size=1024, shares=4)
    cluster = Cluster(time_limit_minutes=60, gpus_per_node=8)
    with pytest.raises(UserError, match=r"^8 processes \(--processes says otherwise\): must divide shares 4"):
        launcher.run([spec], Store(tmp_path), cluster, None, [])
