"""The data root of a cluster profile: where data are fetched to is where jobs look for them."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from experiments.__main__ import main
from experiments.data.root import data_root
from experiments.errors import UserError
from slurm.grouping import Needs
from slurm.launcher import run
from slurm.profile import ROOT, Cluster
from slurm.submit import Outcome, _parameters

NEEDS = Needs(processes=1, nodes=1, side_by_side=1, minutes=60, after=frozenset())


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IVON_DATA", "mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@dataclass
class Seen:
    """A source that keeps the data roots it is asked about."""

    title: str = "seen"
    roots: list[Path] = field(default_factory=list)

    def check(self, root: Path) -> None:
        self.roots.append(root)

    fetch = check


def fetched_to(cluster: Cluster, monkeypatch, store) -> Path:
    """Where a submission looks for data and fetches them to, before it does anything else."""
    seen = Seen()
    monkeypatch.setattr("slurm.launcher.sources", lambda _specs: [seen])
    monkeypatch.setattr("slurm.launcher.submit", lambda *_: Outcome(waiting=0))
    run([], store, cluster, None, [])
    (root,) = set(seen.roots)
    return root


def found_on_the_node(cluster: Cluster, folder: Path, monkeypatch) -> Path:
    """What a job finds, whose shell carries out the lines before the work, where the project is."""
    lines = "\n".join(_parameters(folder, NEEDS, cluster)["setup"])
    shell = ["bash", "-c", f'{lines}\nprintf %s "$IVON_DATA"']
    said = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    with monkeypatch.context() as there:
        there.chdir(ROOT)
        there.setenv("IVON_DATA", said)
        return data_root()


@pytest.mark.parametrize("told", ["~/sets", "$HOME/sets", "sets", "/data sets/ivon", None])
def test_both_read_it_alike(told, home, tmp_path, monkeypatch):
    from experiments.engine.record import Store

    cluster = Cluster(time_limit_minutes=60, environment={"IVON_DATA": told} if told else {})
    expected = {
        "~/sets": home / "sets",
        "$HOME/sets": home / "sets",
        "sets": ROOT / "sets",
        "/data sets/ivon": Path("/data sets/ivon"),
        None: tmp_path / "mine",  # that of whoever submits
    }[told]
    assert fetched_to(cluster, monkeypatch, Store(tmp_path / "runs")) == expected
    assert found_on_the_node(cluster, tmp_path, monkeypatch) == expected
    assert not (tmp_path / "~").exists()


def test_a_plan_looks_there_too(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("slurm.queue.require_slurm", lambda: None)
    monkeypatch.setattr("slurm.queue.live_elements", list)
    (tmp_path / "mine.toml").write_text('time_limit_minutes = 60\n[environment]\nIVON_DATA = "~/sets"\n')
    asked = ["plan", "table1", "--scale", "small", "--executor", "slurm", "--cluster", "mine.toml"]
    assert main([*asked, "--runs", str(tmp_path / "runs")]) == 0
    assert f"data: CIFAR-10, not in {home / 'sets'}; it is fetched" in capsys.readouterr().out


def test_what_only_a_node_knows_is_refused(monkeypatch):
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    cluster = Cluster(time_limit_minutes=60, environment={"IVON_DATA": "$SLURM_TMPDIR/sets"})
    with pytest.raises(UserError, match=r"environment\.IVON_DATA '\$SLURM_TMPDIR/sets': the variable"):
        cluster.data_root  # noqa: B018


def test_the_home_folder_of_other_variables_is_filled_in_too(home, tmp_path):
    cluster = Cluster(time_limit_minutes=60, environment={"HF_HOME": "~/hub", "WORD": "a~b"})
    lines = "\n".join(_parameters(tmp_path, NEEDS, cluster)["setup"])
    said = subprocess.run(
        ["bash", "-c", f'{lines}\nprintf "%s|%s" "$HF_HOME" "$WORD"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == f"{home}/hub|a~b"
