"""Runs on a real SLURM: none is lost, none is run twice, and what goes wrong is told."""

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from baselines.settings import SGD
from experiments.artefacts import ARTEFACTS
from experiments.engine import log
from experiments.engine.record import Store
from experiments.engine.spec import EvalSpec, TrainSpec
from experiments.status import state_of, status
from slurm.launcher import Whereabouts, cancel, logs
from slurm.queue import live_elements
from slurm.submission import submissions

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


def training(seed: int = 0, **changes) -> TrainSpec:
    """Two steps: half a second, once PyTorch is imported."""
    fields = {"dataset": "digits", "model": "resnet20", "width": 2, "epochs": 1, "batch_size": 500}
    return TrainSpec(**{**fields, "warmup_epochs": 0, "method": SGD(lr=0.1), "seed": seed, **changes})


def starts(store: Store, spec) -> int:
    return log.attempts(store.folder(spec))


def command(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "experiments", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
    )


def test_table1_from_one_command_to_the_table(quiet_cluster, tmp_path):
    """The demo as job arrays. Where it has been run locally, in $IVON_TABLE1_RUNS, only what is missing of a
    copy without the last of its seeds; then the numbers are those of the local run.
    """
    store, specs = Store(tmp_path / "runs"), ARTEFACTS["table1"].specs("demo")
    missing = specs
    local = os.environ.get("IVON_TABLE1_RUNS")
    if local:
        shutil.copytree(local, store.root)
        missing = [spec for spec in specs if spec.trainings[0].seed == 4]
        for spec in missing:
            store.path(spec).unlink()
            shutil.rmtree(store.folder(spec))
    submitting = ("run", "table1", "--executor", "slurm", "--cluster", "one-machine", "--runs", store.root)
    done = command(*submitting, "--wait")
    assert done.returncode == 0, done.stderr
    assert sum(map(int, re.findall(r"submitted (\d+) runs", done.stderr))) == len(missing)
    assert "IVON" in done.stdout and "table1.md" in done.stdout
    assert all(starts(store, spec) == 1 for spec in specs)
    if local:
        for spec in missing:
            here, there = (s.load(spec) for s in (Store(Path(local)), store))
            assert here and there
            for record in (here, there):
                del record["result"]["seconds"]
            assert here["result"] == there["result"]
    again = command(*submitting)
    assert again.returncode == 0 and "submitted" not in again.stderr


def test_a_plan_submits_nothing(quiet_cluster, tmp_path):
    planned = command(
        *("plan", "table1", "--executor", "slurm", "--cluster", "one-machine", "--runs", tmp_path / "runs")
    )
    assert planned.returncode == 0, planned.stderr
    assert "trainings: 15 to do" in planned.stdout
    assert sum(map(int, re.findall(r"would submit (\d+) runs", planned.stdout))) == 35
    assert not live_elements() and not (tmp_path / "runs").exists()


def test_many_submitters_at_once_lose_and_double_nothing(quiet_cluster, store, submit, wait_until):
    """A hundred tiny runs, asked for by ten submitters in overlapping parts."""
    specs = [training(seed) for seed in range(100)]

    def part(number: int) -> None:
        chosen = [specs[(10 * number + i) % 100] for i in range(30)]
        submit(chosen, store, runs_per_job=2, job_minutes=1, seconds=8.0)  # some fifteen a job

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(part, range(10)))
    wait_until(lambda: all(map(store.is_over, specs)), seconds=400)
    assert all(store.done(spec) for spec in specs)
    assert {starts(store, spec) for spec in specs} == {1}
    assert sum(len(task) for s in submissions(store) for task in s.tasks) == 100
    assert submit(specs, store) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_submissions(quiet_cluster, store, submit, wait_until):
    """A job each, while those before it run."""
    specs = [training(seed) for seed in range(200)]
    for spec in specs:
        assert len(submit([spec], store)) == 1
        assert submit([spec], store) == []
    wait_until(lambda: all(map(store.is_over, specs)), seconds=1700)
    assert {starts(store, spec) for spec in specs} == {1}


def test_a_submitter_that_dies_before_it_learns_the_number_doubles_nothing(
    quiet_cluster, store, submit, wait_until, monkeypatch
):
    """What it leaves is a folder and a job of its name in the queue."""
    spec = training()

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("submitit.SlurmExecutor._get_job_id_from_submission_command", die)
    with pytest.raises(KeyboardInterrupt):
        submit([spec], store, sbatch={"hold": True})
    monkeypatch.undo()
    assert len(live_elements()) == 1
    assert submit([spec], store) == []
    assert state_of(spec, store, Whereabouts(store)).startswith("waiting in job")


def test_a_run_that_fails_shows_its_traceback_and_the_others_go_on(quiet_cluster, store, submit, wait_until):
    lost = training(0)  # a training whose checkpoint somebody has deleted
    store.add(lost, {"failure": None, "result": {}, "machine": {}})
    bad, good = EvalSpec(train=lost), EvalSpec(train=training(1))
    submit([bad, good.train, good], store, runs_per_job=2)
    wait_until(lambda: store.is_over(good) and not live_elements(), seconds=100)
    assert store.done(good)
    text = "\n".join(status([bad, good], store))
    assert f"{bad.id}  failed: RunError: the trained network" in text
    assert "Traceback (most recent call last)" in text and "log.jsonl" in text
    assert "1 failed" in text and "1 done" in text
    assert len(submit([bad, good], store)) == 1  # only the failed one is tried again


def test_status_and_logs_tell_where_a_run_is(quiet_cluster, store, submit, wait_until):
    held, moving = training(0), training(1, epochs=300, width=4)
    submit([held], store, sbatch={"hold": True})
    submit([moving], store)
    wait_until(lambda: "epoch" in state_of(moving, store, Whereabouts(store)), seconds=100)
    where = Whereabouts(store)
    assert (
        state_of(held, store, where) == f"waiting in job {where._places[held.id].element.job} (JobHeldUser)"
    )
    assert " on node" in state_of(moving, store, where)
    assert {path.suffix for path in logs(moving, store)} == {".out", ".err"}
    assert logs(held, store) == []
    assert state_of(training(2), store, where) == "waiting"
    assert cancel([held, moving], store) == ["cancelled 2 jobs"]
    wait_until(lambda: not live_elements())
    assert state_of(moving, store, Whereabouts(store)).startswith("stopped")


def test_cancel_leaves_jobs_alone_that_have_other_runs(quiet_cluster, store, submit):
    specs = [training(seed) for seed in range(2)]
    submit(specs, store, runs_per_job=2, sbatch={"hold": True})
    lines = cancel(specs[:1], store)
    assert "1 other runs" in lines[0] and lines[1] == "cancelled 0 jobs"
    assert len(live_elements()) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"partition": "gpuu"}, ["invalid partition"]),
        ({"mem_gb": 1e6}, ["Memory specification can not be satisfied"]),
        ({"partition": "short"}, ["time limit"]),
        ({"constraint": "h100"}, ["feature"]),
    ],
)
def test_a_refusal_is_told_in_slurms_own_words(changes, words, quiet_cluster, tmp_path):
    profile = {"partition": '"main"', "time_limit_minutes": 30, "mem_gb": 1.0}
    for name, value in changes.items():
        profile[name] = json.dumps(value)
    path = tmp_path / "mine.toml"
    path.write_text("".join(f"{name} = {value}\n" for name, value in profile.items()))
    refused = command("run", "fig1c", "--executor", "slurm", "--cluster", path, "--runs", tmp_path / "runs")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1 and "SLURM refused" in refused.stderr
    for word in words:
        assert word.lower() in refused.stderr.lower()
    assert list(submissions(Store(tmp_path / "runs"))) == []


def test_a_folder_that_the_nodes_do_not_see_is_named(quiet_cluster, tmp_path):
    """The submitting process alone sees what is mounted there, as with a disk of the login node."""
    runs = tmp_path / "runs"
    runs.mkdir()
    submit = f"{sys.executable} -m experiments run fig1c --executor slurm --cluster one-machine --runs {runs}"
    look = f"{sys.executable} -m experiments status fig1c --runs {runs}"
    wait = 'for _ in $(seq 100); do [ -z "$(squeue --noheader)" ] && break; sleep 0.5; done'
    shell = f"mount -t tmpfs none {runs} && {submit} --only method=adamw && {wait} && {look}"
    answer = subprocess.run(
        ["unshare", "--mount", "sh", "-c", shell], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert answer.returncode == 0, answer.stderr
    assert f"left no log in {runs}" in answer.stdout and "do the nodes see this folder?" in answer.stdout


def test_another_version_in_the_job_is_in_the_record(quiet_cluster, store, submit, wait_until, monkeypatch):
    spec = training()
    monkeypatch.setattr("slurm.submit.code_versions", lambda: {"git": "0123456789ab", "torch": "1.0"})
    submit([spec], store)
    wait_until(lambda: store.is_over(spec), seconds=60)
    record = store.load(spec)
    assert record and record["machine"]["submitted"] == {"git": "0123456789ab", "torch": "1.0"}
    (place,) = submissions(store)
    assert "submitted with torch 1.0" in "".join(path.read_text() for path in place.logs(0))


def test_gpus_are_asked_for(quiet_cluster, store, submit):
    """Held, as these GPUs are none: two nodes of two for a shared training, one for three small runs."""
    shared = {"gpus_per_node": 2, "cpus": 1, "sbatch": {"hold": True}}
    (array,) = submit([training(0)], store, processes=4, **shared)
    asked = quiet_cluster.ask("scontrol", "show", "job", array.job)
    assert "NumNodes=2" in asked and "NumTasks=4" in asked and "TresPerNode=gres:gpu:2" in asked
    (array,) = submit([training(seed) for seed in range(1, 4)], store, runs_per_job=3, **shared)
    asked = quiet_cluster.ask("scontrol", "show", "job", array.job)
    assert "NumNodes=1" in asked and "TresPerNode=gres:gpu:1" in asked


def test_a_training_over_two_nodes_equals_one_under_torchrun(
    quiet_cluster, store, submit, wait_until, tmp_path
):
    spec = training(epochs=3, curve_every=1)
    look = EvalSpec(train=spec)
    submit([spec, look], store, processes=2, processes_per_node=1)
    wait_until(lambda: store.is_over(look), seconds=150)
    record = store.done(spec)
    assert record and record["machine"]["processes"] == 2
    alone = Store(tmp_path / "torchrun")
    alone.root.mkdir()
    worker = ["-m", "experiments.engine.worker", "--root", str(alone.root), "--device", "cpu"]
    worker += ["--checkpoint-seconds", "60", "--processes", "2", "--spec", spec.model_dump_json()]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*launch, *worker], cwd=ROOT, check=True, capture_output=True, timeout=100)
    other = alone.done(spec)
    assert other and other["result"]["history"] == record["result"]["history"]
