"""Copies of data sets on a node's own disk."""

import pytest

from baselines.settings import SGD
from experiments.data.root import data_root
from experiments.engine.spec import EvalSpec, TrainSpec
from slurm.scratch import use_copies

FOLDER = "cifar-10-batches-py"
SPECS = [TrainSpec(dataset="cifar10", model="resnet20", method=SGD(lr=0.1))]


@pytest.fixture
def shared(tmp_path, monkeypatch):
    root = tmp_path / "shared"
    (root / FOLDER).mkdir(parents=True)
    (root / FOLDER / "test_batch").write_text("images")
    monkeypatch.setenv("IVON_DATA", str(root))
    return root


def test_what_the_runs_need_is_copied_once_and_used(shared, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    use_copies([EvalSpec(train=SPECS[0])], scratch)
    assert data_root() == scratch
    assert (scratch / FOLDER / "test_batch").read_text() == "images"
    (shared / FOLDER / "test_batch").write_text("changed")  # a copy that is there is not made again
    monkeypatch.setenv("IVON_DATA", str(shared))
    use_copies(SPECS, scratch)
    assert (scratch / FOLDER / "test_batch").read_text() == "images"


def test_a_copy_that_was_cut_off_is_made_anew(shared, tmp_path):
    partial = tmp_path / "scratch" / f"{FOLDER}.partial"
    partial.mkdir(parents=True)
    (partial / "test_batch").write_text("ima")
    use_copies(SPECS, tmp_path / "scratch")
    assert (tmp_path / "scratch" / FOLDER / "test_batch").read_text() == "images"
    assert not partial.exists()


def test_a_set_that_comes_with_a_dependency_needs_no_copy(shared, tmp_path):
    digits = TrainSpec(dataset="digits", model="resnet20", method=SGD(lr=0.1))
    use_copies([digits], tmp_path / "scratch")
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == [".lock"]
