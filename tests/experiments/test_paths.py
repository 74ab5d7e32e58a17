"""Paths of users: whoever reads one, the command line or a variable, reads the same."""

from pathlib import Path

import pytest

from experiments.__main__ import main
from experiments.commands import command_line
from experiments.data.root import data_root
from experiments.errors import UserError
from experiments.paths import user_path


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DISK", str(tmp_path / "disk"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def read_by_data_root(text: str, monkeypatch) -> Path:
    monkeypatch.setenv("IVON_DATA", text)
    return data_root()


def read_by_runs_variable(text: str, monkeypatch) -> Path:
    monkeypatch.setenv("IVON_RUNS", text)
    return command_line().parse_args(["list"]).runs


def read_by_option(text: str, _monkeypatch) -> Path:
    return command_line().parse_args(["list", f"--runs={text}"]).runs  # with =, which shells leave alone


def read_by_argument(text: str, _monkeypatch) -> Path:
    return command_line().parse_args(["export", "some-run", text]).folder


READERS = (read_by_data_root, read_by_runs_variable, read_by_option, read_by_argument)


@pytest.mark.parametrize("read", READERS)
def test_home_variables_and_the_working_directory_are_filled_in(read, home, tmp_path, monkeypatch):
    expected = {
        "~/sets": home / "sets",
        "~": home,
        "$DISK/sets": tmp_path / "disk" / "sets",
        "${DISK}/a b": tmp_path / "disk" / "a b",
        "sets/mine": tmp_path / "sets" / "mine",
        str(tmp_path / "x~y"): tmp_path / "x~y",
    }
    for text, path in expected.items():
        assert read(text, monkeypatch) == path
    assert not list(tmp_path.iterdir()), "reading a path must not make it"


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("$NOWHERE/sets", r"the variable \$NOWHERE is not set"),
        ("~nobody-such/x", "no home folder ~nobody-such"),
    ],
)
def test_a_folder_of_the_name_of_a_variable_is_not_made(read, text, words, monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)
    with pytest.raises(UserError, match=words) as caught:
        read(text, monkeypatch)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_a_relative_path_starts_where_it_is_said_to(tmp_path):
    assert user_path("a/b", "field", base=tmp_path / "project") == tmp_path / "project" / "a" / "b"
    with pytest.raises(UserError, match="field is empty"):
        user_path("", "field")


def test_the_command_line_says_it_in_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("IVON_DATA", "$NOWHERE")
    assert main(["run", "table2", "--runs=~/runs"]) == 2
    assert capsys.readouterr().err == (
        "error: IVON_DATA '$NOWHERE': the variable $NOWHERE is not set here; set it, or write it out\n"
    )
    assert not (tmp_path / "~").exists()
