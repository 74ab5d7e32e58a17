"""The README is true: its code runs, its commands are understood, what it names is there."""

import re
import shlex
from pathlib import Path

import pandas as pd
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


def test_numbers_of_cifar_are_those_of_the_tables():
    """Each is the mean over seeds that the table or figure has at scale `small`, a dash where it has none."""

    def means(name: str, **only: object) -> "pd.Series[float]":
        frame = pd.read_csv(ROOT / "results" / "artefacts" / "small" / f"{name}.csv")
        for column, value in only.items():
            frame = frame[frame[column] == value]
        return frame.groupby("method")["mean" if "mean" in frame else "value"].mean()

    columns = [
        (means("table2", metric="top1_acc"), 1),
        (means("table2", metric="nll"), 2),
        (means("table2", metric="ece"), 3),
        (means("table3", metric="auroc", dataset="CIFAR-10 vs SVHN"), 0),
        (means("fig7", metric="top1_acc", severity=1), 0),
        (means("fig7", metric="top1_acc", severity=5), 0),
        (means("table6", metric="step_time", model="ResNet-20"), 0),
    ]
    start = TEXT.index("| CIFAR-10, ")
    lines = TEXT[start : TEXT.index("\n\n", start)].splitlines()[2:]
    assert len(lines) > 8
    for line in lines:
        method, *numbers = (cell.strip(" *") for cell in line.strip("|").split("|"))
        expected = [f"{of[method]:.{digits}f}" if method in of else "–" for of, digits in columns]
        assert numbers == expected, method
