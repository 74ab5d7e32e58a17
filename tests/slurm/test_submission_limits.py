"""A cluster takes so many jobs in an array, and so many of one user: what it takes is submitted and known."""

import re
from pathlib import Path

import pytest

from baselines.settings import SGD
from experiments import run
from experiments.__main__ import main
from experiments.artefacts import ARTEFACTS
from experiments.engine.record import Store
from experiments.engine.spec import TrainSpec
from experiments.errors import UserError
from slurm import launcher
from slurm.profile import Cluster
from slurm.queue import live_elements
from slurm.submission import FOLDER, submissions
from slurm.submit import submit

SPECS = [TrainSpec(dataset="digits", model="resnet20", method=SGD(lr=0.1), seed=seed) for seed in range(13)]

# Takes arrays of at most $array jobs, and $user jobs at a time; refuses the rest in the words of SLURM.
SBATCH = r"""
cd "$(dirname "$0")"; . ./limits
jobs=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$1"); jobs=$((${jobs:-0} + 1))
name=$(sed -n 's/^#SBATCH --job-name=//p' "$1")
echo $jobs >> asked
refuse() { for line; do echo "sbatch: error: $line" >&2; done; exit 1; }
[ $jobs -le $array ] || refuse "Batch job submission failed: Invalid job array specification"
policy="Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
[ $(($(cat queue | wc -l) + jobs)) -le $user ] ||
    refuse ${reason:+"$reason"} "Batch job submission failed: $policy"
number=$((100 + $(wc -l < asked)))
for index in $(seq 0 $((jobs - 1))); do echo "${number}_$index|$name|PENDING|Resources|" >> queue; done
echo "Submitted batch job $number"
"""


class FakeSlurm:
    """Its programs, found before any real ones."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "asked").touch()
        (folder / "queue").touch()
        self.write("sbatch", SBATCH)
        self.write("squeue", f"cat {folder}/queue")
        self.write("srun", "exit 1")
        self.write("scontrol", "exit 1")

    def write(self, name: str, script: str) -> None:
        (self.folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (self.folder / name).chmod(0o755)

    def allow(self, *, array: int = 1000, user: int = 1000, reason: str = "") -> None:
        (self.folder / "limits").write_text(f"array={array} user={user} reason='{reason}'\n")

    def say_max_array_size(self, size: int) -> None:
        text = (
            f"Configuration data as of now\nMaxArraySize            = {size}\nMaxJobCount             = 10000"
        )
        self.write("scontrol", f"[ \"$*\" = 'show config' ] && echo '{text}'")

    @property
    def asked(self) -> list[int]:
        """How many jobs each call of sbatch had."""
        return [int(line) for line in (self.folder / "asked").read_text().split()]

    def end_all_jobs(self) -> None:
        (self.folder / "queue").write_text("")


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> FakeSlurm:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return FakeSlurm(tmp_path / "bin")


def submitted(store: Store, specs=SPECS, **profile):
    """A job for each run."""
    cluster = Cluster(time_limit_minutes=30, **profile)
    return submit(specs, store, cluster, lambda _: 1, lambda _: None)


def submitted_runs(store: Store) -> list[str]:
    return sorted(run for submission in submissions(store) for task in submission.tasks for run in task)


def test_the_clusters_own_size_of_arrays_is_kept_to(slurm, store):
    slurm.allow(array=5)
    slurm.say_max_array_size(5)
    outcome = submitted(store)
    assert slurm.asked == [5, 5, 3] and not outcome.left
    assert submitted_runs(store) == sorted(spec.id for spec in SPECS)


def test_the_profiles_size_of_arrays_comes_first(slurm, store):
    slurm.allow()
    slurm.say_max_array_size(5)
    submitted(store, max_array_size=6)
    assert slurm.asked == [6, 6, 1]


@pytest.mark.parametrize(("size", "asked"), [(0, 13 * [1]), (1, 13 * [1]), (13, [13]), (1001, [13])])
def test_sizes_at_the_edge(size, asked, slurm, store):
    """0 is a cluster without arrays; indices run from 0 to the size less one."""
    slurm.allow()
    slurm.say_max_array_size(size)
    submitted(store)
    assert slurm.asked == asked


def test_a_cluster_that_does_not_say_has_slurms_usual_size(slurm, store):
    slurm.allow()
    submitted(store)
    assert slurm.asked == [13]


REASONS = ["QOSMaxSubmitJobPerUserLimit", "AssocMaxSubmitJobLimit", "AssocGrpSubmitJobsLimit", ""]


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("user", [1, 2, 5, 12])
def test_as_much_is_submitted_as_one_user_may(user, reason, slurm, store):
    slurm.allow(user=user, reason=reason)
    outcome = submitted(store)
    assert outcome.runs == len(live_elements()) == user
    assert len(submitted_runs(store)) == user and len(slurm.asked) < 13
    assert sorted(spec.id for spec in outcome.left) == sorted(
        {spec.id for spec in SPECS} - set(submitted_runs(store))
    )
    assert reason in outcome.limit
    # What was refused leaves nothing behind.
    folders = list((store.root / FOLDER).glob("ivon-*"))
    assert len(folders) == len(list(submissions(store))) == len(outcome.arrays)


def test_calling_again_submits_the_rest_and_nothing_twice(slurm, store):
    slurm.allow(user=5, reason=REASONS[0])
    for begun in (5, 10, 13):
        assert bool(submitted(store).left) == (begun < 13)
        assert len(submitted_runs(store)) == begun
        again = submitted(store, specs=[spec for spec in SPECS if spec.id in submitted_runs(store)])
        assert not again.arrays
        for spec in SPECS:
            if spec.id in submitted_runs(store) and not store.is_over(spec):
                store.add(spec, {"failure": None, "result": {}, "machine": {}})
        slurm.end_all_jobs()
    assert submitted_runs(store) == sorted(spec.id for spec in SPECS)


def test_a_limit_that_other_jobs_of_the_user_fill_is_no_mistake(slurm, store):
    slurm.allow(user=0, reason=REASONS[0])
    outcome = submitted(store)
    assert (outcome.runs, len(outcome.left), outcome.limit) == (0, 13, REASONS[0])


@pytest.mark.parametrize("reason", ["QOSMaxWallDurationPerJobLimit", ""])
def test_a_job_that_is_too_much_for_the_cluster_is_a_mistake(reason, slurm, store):
    """SLURM has one error for both; its reason, if it gives one, tells them apart."""
    slurm.allow(user=0, reason=reason)
    with pytest.raises(UserError, match=rf"^SLURM refused the job: {reason}.*policy"):
        submitted(store)
    assert submitted_runs(store) == []


def test_a_refusal_after_a_part_was_taken_says_so(slurm, store):
    """Of two kinds of jobs: six whose time is known, and seven others."""
    slurm.allow(array=6)
    cluster, known = Cluster(time_limit_minutes=600), {spec.id: 3600.0 for spec in SPECS[:6]}
    with pytest.raises(
        UserError, match=r"job array specification; 6 runs were submitted before that, and stay"
    ):
        submit(SPECS, store, cluster, lambda _: 1, lambda spec: known.get(spec.id))


def test_the_user_reads_one_line_about_it(slurm, tmp_path, capsys):
    slurm.allow(user=2, reason=REASONS[0])
    path = tmp_path / "mine.toml"
    path.write_text("time_limit_minutes = 30\nruns_per_job = 1\njob_minutes = 0\n")
    runs = str(tmp_path / "runs")
    command = ["run", "fig1c", "--executor", "slurm", "--cluster", str(path), "--runs", runs]
    assert main(command) == 0
    said = capsys.readouterr().err.splitlines()
    (line,) = [line for line in said if REASONS[0] in line]
    assert re.match(r"\d+ runs are not submitted: SLURM takes no more jobs .*run this again once some", line)
    assert sum("submitted" in line and "SLURM's number" in line for line in said) >= 1


def test_waiting_submits_the_rest_as_room_comes(slurm, store, monkeypatch, tmp_path):
    """Otherwise it would wait for ever, for runs that nobody has submitted."""
    slurm.allow(user=2, reason=REASONS[0])
    path = tmp_path / "mine.toml"
    path.write_text("time_limit_minutes = 30\njob_minutes = 0\n")
    begun: set[str] = set()

    def pass_time(_: float) -> None:
        """All that waits comes to its end."""
        ended = set(submitted_runs(store)) - begun
        for spec in {spec.id: spec for spec in asked}.values():
            if spec.id in ended:
                store.add(spec, {"failure": {"reason": "no luck"}, "result": {}, "machine": {}})
        begun.update(ended)
        slurm.end_all_jobs()

    asked = ARTEFACTS["fig1c"].specs("demo")
    monkeypatch.setattr(run.time, "sleep", pass_time)
    command = ["run", "fig1c", "--wait", "--executor", "slurm", "--cluster", str(path)]
    assert main([*command, "--runs", str(store.root)]) == 1
    assert begun == {spec.id for spec in asked}


def test_a_script_that_slurm_is_about_to_read_is_for_its_owner_alone(slurm, store, tmp_path):
    slurm.allow()
    real = (tmp_path / "bin" / "sbatch").read_text()
    look = f'stat --format=%a "$(dirname "$1")" > {tmp_path}/mode'
    slurm.write("sbatch", real.replace("\ncd ", f"\n{look}\ncd ", 1))
    submitted(store)
    (submission,) = submissions(store)
    assert (tmp_path / "mode").read_text() == "700\n"
    assert submission.folder.stat().st_mode & 0o777 == 0o755
    assert not list(submission.folder.glob("*.pkl"))


def test_whereabouts_of_what_was_left_is_that_it_waits(slurm, store):
    slurm.allow(user=5, reason=REASONS[0])
    outcome = submitted(store)
    where = launcher.Whereabouts(store)
    assert all(where.of(spec) is None for spec in outcome.left)
    told = [where.of(spec) for spec in SPECS if spec not in outcome.left]
    assert len(told) == 5 and all(line and line.startswith("waiting in job") for line in told)
