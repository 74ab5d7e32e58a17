"""Root runs and writes what lies in the directory of the one-machine SLURM: it must be nobody else's."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments.errors import UserError
from slurm.one_machine import OneMachine, Settings, host, packages
from slurm.one_machine.__main__ import DIRECTORY

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start it")
SOMEBODY = 1234


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder of root's with a short path, as those of sockets must be."""
    with tempfile.TemporaryDirectory(prefix="ivon-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def machine(place, monkeypatch) -> OneMachine:
    """One that gets as far as to ask for its packages, and has then written nothing outside its directory."""

    def installed(*_: object) -> None:
        raise UserError("it would be installed now")

    monkeypatch.setattr(packages, "install", installed)
    monkeypatch.setattr(host, "LOCK", place / "lock")
    return OneMachine(Settings(directory=place / "c"))


def planted_link(directory: Path) -> None:
    (directory.parent / "elsewhere").mkdir()
    directory.symlink_to(directory.parent / "elsewhere")


def of_somebody(directory: Path) -> None:
    directory.mkdir()
    os.chown(directory, SOMEBODY, SOMEBODY)


def open_to_all(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o1777)


def in_an_open_folder(directory: Path) -> None:
    directory.parent.chmod(0o777)


def with_a_link_in_it(directory: Path) -> None:
    (directory.parent / "elsewhere").mkdir()
    directory.mkdir()
    (directory / "log").symlink_to(directory.parent / "elsewhere")


def with_a_file_of_somebody(directory: Path) -> None:
    directory.mkdir()
    (directory / "munged.pid").touch()
    os.chown(directory / "munged.pid", SOMEBODY, SOMEBODY)


WAYS = [planted_link, of_somebody, open_to_all, in_an_open_folder, with_a_link_in_it, with_a_file_of_somebody]


def everything_below(folder: Path) -> set[Path]:
    return set(folder.rglob("*")) - {folder / "lock"}


@pytest.mark.parametrize("way", WAYS)
def test_a_start_writes_nothing_where_another_user_could(way: Callable[[Path], None], machine, place):
    way(machine.directory)
    before = everything_below(place)
    with pytest.raises(UserError, match=r"^one-machine SLURM: .*(/c|is a link)") as refused:
        machine.start()
    assert "\n" not in str(refused.value)
    assert everything_below(place) == before


def test_a_directory_of_its_own_is_made_for_all_to_read_and_root_to_write(machine):
    before = os.umask(0)
    try:
        with pytest.raises(UserError, match="would be installed now"):
            machine.start()
    finally:
        os.umask(before)
    for path in (machine.directory, machine.directory / "log"):
        assert path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("way", WAYS)
def test_what_another_user_has_laid_there_is_not_believed(way, machine, place):
    """`eval "$(... env)"` would lead the programs of SLURM to a configuration that names what they run."""
    way(machine.directory)
    machine.directory.mkdir(exist_ok=True)
    (machine.directory / "settings.json").write_text(json.dumps({"nodes": 1}))
    (machine.directory / "slurm.conf").touch()
    before = everything_below(place)
    with pytest.raises(UserError, match=r"^one-machine SLURM: "):
        OneMachine.saved(machine.directory)
    assert everything_below(place) == before


def test_the_command_line_says_so_in_one_line(place):
    of_somebody(place / "c")
    (place / "c" / "settings.json").write_text("{}")
    command = [sys.executable, "-m", "slurm.one_machine", "env", f"--directory={place / 'c'}"]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert (answer.returncode, answer.stdout) == (2, "")
    said = f"one-machine SLURM: {place / 'c'} cannot be used: {place / 'c'} belongs to another user\n"
    assert answer.stderr == said


def test_nobody_can_be_first_in_the_usual_place():
    assert not any(parent.stat().st_mode & 0o022 for parent in DIRECTORY.parents)


def test_damaged_settings_are_one_line(tmp_path):
    (tmp_path / "settings.json").write_text('{"nodes":')
    with pytest.raises(UserError, match=r"settings\.json is damaged: remove it$"):
        OneMachine.saved(tmp_path)


def test_a_users_configuration_where_a_link_of_ours_leads_is_not_left_there(tmp_path, monkeypatch):
    """The name of the directory of a cluster that was killed is known, and free for all in /tmp."""
    monkeypatch.setattr(host, "LINK", tmp_path / "etc/slurm.conf")
    theirs, ours, the_systems = (tmp_path / f"{name}.conf" for name in ("theirs", "ours", "system"))
    host.add_link(theirs)
    theirs.touch()
    os.chown(theirs, SOMEBODY, SOMEBODY)
    host.add_link(ours)
    assert host.LINK.readlink() == ours
    the_systems.touch()
    os.chown(the_systems, 101, 101)
    host.remove_link(ours)
    host.add_link(the_systems)
    host.add_link(ours)
    assert host.LINK.readlink() == the_systems
