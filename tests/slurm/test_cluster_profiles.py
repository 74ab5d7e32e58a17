"""Cluster profiles: what they say is used, and what they get wrong is told in one line."""

import pytest

from experiments.__main__ import main
from experiments.errors import UserError
from slurm import profile
from slurm.profile import Cluster, load

GOOD = "time_limit_minutes = 60\n"


@pytest.fixture
def written(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize("path", sorted(profile.FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_those_that_come_along_are_valid(path):
    assert load(path.stem).time_limit_minutes > 0


def test_the_example_explains_every_field():
    text = (profile.FOLDER / "example.toml").read_text()
    assert [name for name in Cluster.model_fields if name not in text] == []


def test_a_path_or_the_environment_names_one(written, monkeypatch):
    path = written(GOOD + 'partition = "gpu"\n[sbatch]\nreservation = "friday"\n')
    assert load(path).partition == "gpu"
    monkeypatch.setenv("IVON_CLUSTER", path)
    assert load(None).sbatch == {"reservation": "friday"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["time_limit_minutes", "required"]),
        (GOOD + 'partitoin = "gpu"\n', ["partitoin", "no such field"]),
        (GOOD + 'cpus = "two"\n', ["cpus", "two"]),
        (GOOD + "cpus = 0\n", ["cpus", "0", "1"]),
        (GOOD + "max_array_size = 0\n", ["max_array_size", "0", "1"]),
        (GOOD + 'setup = ["a\\nb"]\n', ["setup"]),
        (GOOD + 'gpu_type = "a100"\n', ["gpu_type", "gpus_per_node"]),
        (GOOD + '[environment]\n"A B" = "x"\n', ["environment", "A B"]),
        (GOOD + "signal_seconds = 1200\ntime_limit_minutes = 9\n", ["not TOML"]),
        ("signal_seconds = 600\ntime_limit_minutes = 9\n", ["time_limit_minutes 9", "at least 12"]),
        ("time_limit_minutes =", ["not TOML"]),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_field(written, text, words):
    path = written(text)
    with pytest.raises(UserError) as error:
        load(path)
    for word in (path, *words):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD.encode() + b'\npartition = "b\xfcro"\n', ["not UTF-8", "0xfc", "line 3"]),
        (GOOD.encode("utf-16"), ["not UTF-8", "line 1"]),
        (b"a = " + 5000 * b"[", ["not TOML"]),
    ],
)
def test_a_file_that_is_no_text_is_one_line_and_exit_code_2(content, words, tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    command = [
        "run",
        "fig1c",
        "--executor",
        "slurm",
        "--cluster",
        str(path),
        "--runs",
        str(tmp_path / "runs"),
    ]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: cluster profile {path}: ") and said.count("\n") == 1
    for word in words:
        assert word in said


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "mine.toml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load(str(tmp_path / "mine.toml")).time_limit_minutes == 60


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, ["--cluster", "IVON_CLUSTER", "example"]),
        ("exmaple", ["'exmaple'", "did you mean 'example'"]),
        ("nowhere/mine.toml", ["nowhere/mine.toml", "No such file"]),
    ],
)
def test_an_unknown_one_is_told_apart(name, words, monkeypatch):
    monkeypatch.delenv("IVON_CLUSTER", raising=False)
    with pytest.raises(UserError) as error:
        load(name)
    for word in words:
        assert word in str(error.value)


def test_without_slurm_there_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    for command in (["run", "--wait"], ["plan"], ["cancel"]):
        options = [] if command[0] == "cancel" else ["--executor", "slurm", "--cluster", "example"]
        assert main([command[0], "fig1c", *command[1:], *options, "--runs", str(tmp_path / "runs")]) == 2
        assert capsys.readouterr().err == (
            "error: no sbatch on this machine: run this on the cluster's login node, "
            "or with --executor local\n"
        )


@pytest.mark.parametrize("option", [["--cluster", "example"], ["--wait"]])
def test_options_of_a_cluster_want_one(option, tmp_path, capsys):
    assert main(["run", "fig1c", *option, "--runs", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {option[0]}: only with --executor slurm\n"
