"""In a folder that others can write to, names can be guessed: a link laid there leads no write elsewhere."""

import os
from pathlib import Path

import numpy as np
import pytest

from experiments.data.readers.disk import exclusive, written_whole
from experiments.engine import files, lock


def replace(folder: Path) -> Path:
    files.replace(folder / "a.json", b"new")
    return folder / "a.json"


def create(folder: Path) -> Path:
    assert files.create(folder / "a.json", b"new")
    return folder / "a.json"


def array(folder: Path) -> Path:
    with written_whole(folder / "a.npy") as temporary:
        np.save(temporary, np.arange(3))
    return folder / "a.npy"


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (replace, ".a.json.{}.tmp"),
        (create, ".a.json.{}.tmp"),
        (array, ".{}-a.npy"),
    ],
)
def test_a_link_with_the_name_of_a_temporary_file_is_not_written_through(write, name, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("old")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / name.format(os.getpid())).symlink_to(precious)
    written = write(tmp_path / "shared")
    assert precious.read_text() == "old"
    assert written.is_file() and not written.is_symlink() and written.stat().st_size
    assert [path.name for path in written.parent.iterdir()] == [written.name]


@pytest.mark.parametrize("hold", [lock.claim, lambda folder: exclusive(folder / "lock")])
def test_a_link_with_the_name_of_a_lock_makes_no_file(hold, tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "lock").symlink_to(tmp_path / "made")
    with pytest.raises(OSError, match="lock"), hold(tmp_path / "shared"):
        pass
    assert not (tmp_path / "made").exists()
