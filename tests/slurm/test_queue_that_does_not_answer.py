"""While SLURM's controller is away nothing is known of jobs: not the same as that they have ended."""

import json
import os
import signal
import subprocess
from itertools import count, repeat
from types import SimpleNamespace

import pytest

from baselines.settings import SGD
from experiments.engine.spec import TrainSpec
from experiments.errors import RunError, UserError
from experiments.run import _waits
from experiments.status import state_of
from slurm import job, launcher
from slurm.joint import DIED
from slurm.submission import new, submissions
from slurm.submit import _again_if_killed

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


@pytest.fixture
def fake_program(tmp_path, monkeypatch):
    """`fake_program("squeue", "exit 1")`: a program that is found before the real one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")

    def write(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    write("srun", "exit 1")
    return write


@pytest.fixture
def lost_answer(fake_program, tmp_path):
    """`lost_answer("exit 1")`: sbatch says that it got no answer, after this script with the job's $name."""

    def write(script: str) -> None:
        sbatch = [
            'name=$(sed -n "s/^#SBATCH --job-name=//p" "$1")',
            script,
            "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2",
            "exit 1",
        ]
        fake_program("sbatch", "\n".join(sbatch))

    fake_program("squeue", f"cat {tmp_path}/queue")
    (tmp_path / "queue").touch()
    return write


def test_a_job_that_slurm_took_without_an_answer_has_its_work(lost_answer, store, submit, tmp_path):
    specs = [SPEC.model_copy(update={"seed": seed}) for seed in range(2)]
    element = '"77_%d|$name|PENDING|None|\\n"'
    lost_answer(f"printf {element} 0 >> {tmp_path}/queue; printf {element} 1 >> {tmp_path}/queue")
    (array,) = submit(specs, store)
    assert (array.job, array.runs) == ("77", 2)
    (submission,) = submissions(store)
    for index, run in enumerate(specs):
        assert json.loads(job.work_file(submission.folder, index).read_text()) == [
            run.model_dump(mode="json")
        ]
    assert submit(specs, store) == []  # nothing is submitted twice


def test_a_job_that_slurm_did_not_take_is_forgotten(lost_answer, store, submit):
    lost_answer("")
    with pytest.raises(UserError, match=r"SLURM refused the job: .*Socket timed out"):
        submit([SPEC], store)
    assert list(submissions(store)) == []


def test_a_job_that_slurm_may_have_taken_stays_written_down(lost_answer, store, submit, tmp_path):
    lost_answer(f"rm {tmp_path}/queue")  # squeue fails
    with pytest.raises(RunError, match=r"may have the job ivon-.*, and does not answer: .*Socket timed out"):
        submit([SPEC], store)
    assert [submission.tasks for submission in submissions(store)] == [[[SPEC.id]]]


@pytest.fixture
def at_its_time_limit(monkeypatch, store):
    """`at_its_time_limit(*answers)`: the exit status of a job that gets these answers when it asks for its
    state, and this error when it first goes back into the queue.
    """
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SUBMITIT_FOLDER", str(store.root))
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    clock = count()
    monkeypatch.setattr(job, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None))
    monkeypatch.setattr("slurm.queue.seconds_left", lambda _: None)
    stopped = SimpleNamespace(run=lambda *_: False, stopped_by=signal.SIGUSR2, failed={})
    monkeypatch.setattr(job, "Launcher", lambda *_: stopped)

    def end(*answers: str | Exception, requeue: Exception | None = None) -> object:
        left, failures = iter(answers), iter([requeue] if requeue else [])
        back: list[str] = []

        def state(_: str) -> str:
            answer = next(left)
            if isinstance(answer, Exception):
                raise answer
            return answer

        def back_into_the_queue(number: str) -> None:
            if error := next(failures, None):
                raise error
            back.append(number)

        monkeypatch.setattr("slurm.queue.state_of", state)
        monkeypatch.setattr("slurm.queue.requeue", back_into_the_queue)
        before = signal.getsignal(signal.SIGUSR2)
        work = job.Job(
            root=str(store.root),
            device="cpu",
            processes=1,
            side_by_side=1,
            checkpoint_seconds=60,
            signal_seconds=40,
            data_scratch=None,
            versions={},
        )
        try:
            with pytest.raises(SystemExit) as left_with:
                work([SPEC])
            assert back == (["77"] if left_with.value.code == job.MADE_WAY else [])
            return left_with.value.code
        finally:
            signal.signal(signal.SIGUSR2, before)

    return end


def test_a_job_at_its_time_limit_asks_until_the_controller_is_back(at_its_time_limit):
    away = RunError("squeue: Unable to contact slurm controller")
    failed = RunError("scontrol: no answer within 60 s")
    assert at_its_time_limit(away, away, "RUNNING") == job.MADE_WAY
    assert at_its_time_limit("RUNNING", "RUNNING", requeue=failed) == job.MADE_WAY
    assert at_its_time_limit(away, "CANCELLED") == 128 + signal.SIGTERM  # SLURM has decided otherwise
    assert at_its_time_limit(*repeat(away, 50)) == DIED  # its script asks further


@pytest.mark.parametrize(
    ("squeue", "requeued"),
    [
        ("echo RUNNING", True),
        ("echo x >> asked; [ $(wc -l < asked) -gt 3 ] && echo RUNNING", True),
        ("echo COMPLETING", False),
        ("exit 1", False),
    ],
)
def test_the_script_of_a_killed_job_asks_again_too(squeue, requeued, fake_program, tmp_path, monkeypatch):
    monkeypatch.setattr("slurm.submit.QUESTIONS", 5)
    fake_program("squeue", squeue)
    fake_program("sleep", "")
    fake_program("scontrol", "echo $* > requeued")
    script = "\n".join([f"(exit {DIED})", *_again_if_killed(tmp_path)])
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env={**os.environ, "SLURM_JOB_ID": "77"})
    assert done.returncode == DIED
    assert (tmp_path / "requeued").exists() == requeued
