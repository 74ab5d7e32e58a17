"""While SLURM's controller is away nothing is known of jobs: not the same as that they have ended."""

import pytest

from baselines.settings import SGD
from experiments.engine.spec import TrainSpec
from experiments.errors import RunError
from experiments.run import _waits
from experiments.status import state_of
from slurm import launcher
from slurm.submission import new

SPEC = TrainSpec(dataset="digits", model="resnet20", method=SGD(lr=0.1))


@pytest.fixture
def away(monkeypatch):
    def answer():
        raise RunError("squeue: Unable to contact slurm controller")

    monkeypatch.setattr("slurm.queue.live_elements", answer)


def test_status_says_so(away, store, capsys):
    submission = new(store, [[SPEC.id]])
    assert state_of(SPEC, store, launcher.Whereabouts(store)) == f"submitted as {submission.name}"
    assert "Unable to contact" in capsys.readouterr().err


def test_waiting_goes_on(away, store):
    new(store, [[SPEC.id]])
    assert _waits([SPEC], store, launcher)
