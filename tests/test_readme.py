"""The README is true: its code runs, its commands are understood, what it names is there."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from torch import nn

import ivon
from experiments.__main__ import main
from experiments.artefacts import ARTEFACTS
from experiments.commands import command_line

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
COMMAND = re.compile(r"^    python -m experiments (.*?)(?:  +#.*| # .*)?$", re.MULTILINE)
COMMANDS = COMMAND.findall(TEXT)
MAKE = re.findall(r"^    make (\S+)", TEXT, re.MULTILINE)


def test_the_code_trains_and_predicts():
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    torch.manual_seed(0)
    inputs = torch.randn(64, 5)
    train_set = list(zip(inputs, (inputs[:, 0] > 0).long(), strict=True))
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    names = {
        "model": model,
        "train_set": train_set,
        "epochs": 2,
        "loader": [
            tuple(map(torch.stack, zip(*train_set[i : i + 16], strict=True))) for i in range(0, 64, 16)
        ],
        "criterion": nn.functional.cross_entropy,
        "inputs": inputs,
    }
    before = model[0].weight.detach().clone()
    exec(code, names)
    assert not torch.equal(model[0].weight, before)
    assert torch.allclose(names["log_probs"].exp().sum(dim=1), torch.ones(len(names["log_probs"])), atol=1e-5)


def test_what_else_there_is_exists():
    names = re.findall(r"`(?:print\()?ivon\.([A-Za-z_]+)", TEXT)
    assert len(names) >= 7
    assert [name for name in names if not hasattr(ivon, name)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command):
    arguments = command_line().parse_args(shlex.split(command))
    artefact = getattr(arguments, "artefact", None)
    assert artefact is None or artefact == "all" or artefact in ARTEFACTS


def commands_below(heading: str) -> list[str]:
    """Those of the part of a block that a comment of this beginning is above."""
    (part,) = re.findall(rf"^    # {heading}.*?\n((?:    python .*\n)+)", TEXT, re.MULTILINE)
    return COMMAND.findall(part)


FRESH = commands_below("On a fresh clone:")
NEEDS_RUNS = commands_below("When there are runs of your own;") + commands_below(
    "When one of them is a trained"
)


@pytest.fixture
def fresh_clone(tmp_path, monkeypatch):
    """No runs, and no data but those that come with the repository."""
    monkeypatch.setenv("IVON_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("IVON_DATA", str(tmp_path / "data"))


@pytest.mark.parametrize("command", [c for c in FRESH if not c.startswith("render")])  # it takes minutes
def test_commands_for_a_fresh_clone_work(command, fresh_clone, capsys):
    arguments = shlex.split(command)
    if arguments[0] == "run":  # hours; what it would do is what `plan` says
        arguments = ["plan", *shlex.split(re.sub(r" --jobs \d+", "", command))[1:]]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert said.out and "error" not in said.err


@pytest.mark.parametrize("command", NEEDS_RUNS)
def test_commands_that_need_runs_say_so(command, fresh_clone, capsys):
    """Under their heading and, without any, in one line."""
    code = main(shlex.split(command))
    said = capsys.readouterr()
    if command.startswith("verify"):
        assert code == 0 and "no records" in said.out
    else:
        assert code == 2 and said.err.count("\n") == 1
        assert "no run" in said.err or "no finished training" in said.err


def test_no_example_has_the_id_of_a_run():
    """Ids change whenever the protocol does."""
    assert set(FRESH) | set(NEEDS_RUNS) <= set(COMMANDS)
    assert len([command for command in COMMANDS if " RUN" in command]) >= 3
    assert not re.findall(r"\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{8,16}\b", TEXT)


def test_make_targets_exist_and_artefacts_are_all_named():
    rules = re.findall(r"^([a-z][\w%-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in MAKE:
        name = target.removeprefix("reproduce-")
        assert target in rules or ("reproduce-%" in rules and name in ARTEFACTS), target
    table = TEXT[TEXT.index("| artefact |") : TEXT.index("Each exists at three scales")]
    assert set(ARTEFACTS) <= set(re.findall(r"`(\w+)`", table)), (
        "a table or figure without a line in the README"
    )


def test_linked_files_exist():
    linked = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert len(linked) > 5
    assert [link for link in linked if "://" not in link and not (ROOT / link).exists()] == []
