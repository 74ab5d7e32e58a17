"""Copies of data sets on a node's own disk."""

import os

import pytest

from baselines.settings import SGD
from experiments.artefacts import ARTEFACTS
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
    assert [
        path for path in (tmp_path / "scratch").iterdir() if path.is_dir() and not path.is_symlink()
    ] == []


@pytest.mark.parametrize("name", [name for name, artefact in ARTEFACTS.items() if "paper" in artefact.scales])
def test_whatever_an_artefact_reads_can_be_copied(name, shared, tmp_path):
    specs = ARTEFACTS[name].specs("paper")
    folders = {source.folder_below(shared) for spec in specs for source in spec.sources} - {None}
    for folder in folders:
        (shared / folder).mkdir(parents=True, exist_ok=True)
    scratch = tmp_path / "scratch"
    use_copies(specs, scratch)
    assert data_root() == scratch
    assert all((scratch / folder).resolve() == scratch.resolve() / folder for folder in folders)


def test_what_has_no_copy_is_found_where_it_is(shared, tmp_path, monkeypatch):
    """Images from elsewhere are read once; a job that reads more often then copies what was only linked."""
    scratch = tmp_path / "scratch"
    for path in ("ood-parts/svhn.npz", "tokens/one/index.json", ".download/half"):
        (shared / path).parent.mkdir(parents=True)
        (shared / path).write_text(path)
    scratch.mkdir()
    (scratch / "ood-parts").symlink_to(tmp_path / "moved")  # as a job left it that had another data root
    use_copies([TrainSpec(dataset="digits", model="resnet20", method=SGD(lr=0.1))], scratch)
    assert (data_root() / "ood-parts" / "svhn.npz").read_text() == "ood-parts/svhn.npz"
    assert (data_root() / FOLDER).is_symlink() and not (data_root() / ".download").exists()
    monkeypatch.setenv("IVON_DATA", str(shared))
    use_copies(SPECS, scratch)
    assert not (scratch / FOLDER).is_symlink() and (scratch / "ood-parts").is_symlink()
    assert (scratch / FOLDER / "test_batch").read_text() == "images"
    assert (shared / FOLDER / "test_batch").read_text() == "images"


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_folder_that_others_can_write_to_gets_no_copy(mode, shared, tmp_path, capsys):
    """They could exchange what the runs read; and the data are where they were."""
    scratch, precious = tmp_path / "scratch", tmp_path / "precious"
    precious.write_text("mine")
    scratch.mkdir()
    (scratch / ".lock").symlink_to(precious)
    scratch.chmod(mode)
    use_copies(SPECS, scratch)
    assert data_root() == shared
    assert precious.read_text() == "mine" and [path.name for path in scratch.iterdir()] == [".lock"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"others can write to {scratch} " in said and "data_scratch" in said


def test_a_folder_made_for_copies_is_the_users_own(shared, tmp_path):
    before = os.umask(0)
    try:
        use_copies(SPECS, tmp_path / "new" / "scratch")
    finally:
        os.umask(before)
    assert data_root().stat().st_mode & 0o777 == 0o700
