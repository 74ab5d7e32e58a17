"""The README is true: its code runs, its commands are understood, what it names is there."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from torch import nn

import ivon
from experiments.artefacts import ARTEFACTS
from experiments.commands import command_line

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^    python -m experiments (.*?)(?:  +#.*| # .*)?$", TEXT, re.MULTILINE)
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
