"""The process of a job: what it reads, and how it ends."""

import json
import signal

import pytest

from baselines.settings import SGD
from experiments.engine.spec import TrainSpec
from experiments.errors import UserError
from slurm import job

SPEC = TrainSpec(dataset="digits", model="resnet20", method=SGD(lr=0.1))
JOB = job.Job(
    root="/some where/runs",
    device="cpu",
    processes=1,
    side_by_side=2,
    checkpoint_seconds=60.0,
    signal_seconds=40.0,
    data_scratch="$TMPDIR/it's",
    versions={"git": None, "torch": "1.0"},
)


@pytest.fixture
def begin(monkeypatch, tmp_path):
    """`begin(work)`: a job of element 3 of an array, which does this with its settings and its runs."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SUBMITIT_FOLDER", "")
    for name, value in {"JOB_ID": "80", "ARRAY_JOB_ID": "77", "ARRAY_TASK_ID": "3"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr(job, "END_SECONDS", 0)
    job.work_file(tmp_path, 3).write_text(json.dumps([SPEC.model_dump(mode="json")]))
    _, module_flag, module, *arguments = JOB.arguments(tmp_path)
    assert (module_flag, module) == ("-m", "slurm.job")

    def start(work) -> None:
        monkeypatch.setattr(job.Job, "__call__", work)
        before = signal.getsignal(signal.SIGTERM)
        try:
            job.main(*arguments)
        finally:
            signal.signal(signal.SIGTERM, before)

    return start


def test_it_has_the_settings_and_the_runs_of_its_submission(begin):
    seen = []
    begin(lambda settings, specs: seen.append((settings, specs)))
    assert seen == [(JOB, [SPEC])]


def test_a_pickle_in_its_folder_is_not_loaded(begin, tmp_path):
    """Whoever can write there would run code as the user."""
    code = b"cos\nmkdir\n(V" + str(tmp_path / "made").encode() + b"\ntR."
    for name in ("77_3_submitted.pkl", "80_submitted.pkl"):
        (tmp_path / name).write_bytes(code)
    begin(lambda *_: None)
    assert not (tmp_path / "made").exists()


def test_terminated_before_its_work_begins_it_waits_for_slurm_and_says_so(begin, capsys):
    """As it copies data. SLURM has decided what to do with it; to end sooner might end its other tasks."""

    def work(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as left:
        begin(work)
    assert left.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "stopped; SLURM ends this job\n"


def test_what_it_cannot_do_is_one_line(begin, capsys):
    def work(*_: object) -> None:
        raise UserError("files cannot be locked")

    with pytest.raises(SystemExit) as left:
        begin(work)
    assert (left.value.code, capsys.readouterr().err) == (1, "error: files cannot be locked\n")


def test_runs_that_a_node_does_not_see_are_named(begin, monkeypatch, tmp_path, capsys):
    job.work_file(tmp_path, 3).unlink()
    monkeypatch.setattr(job.time, "sleep", lambda _: None)
    with pytest.raises(SystemExit):
        begin(pytest.fail)
    assert "work-3.json is not to be seen on this node" in capsys.readouterr().err
