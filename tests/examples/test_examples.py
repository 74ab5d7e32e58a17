"""The scripts under examples/ learn, and go on from a checkpoint to the bits of an uninterrupted run."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ivon

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NEEDS = {
    "accelerate_loop": ["accelerate"],
    "huggingface_trainer": ["transformers", "accelerate"],
    "lightning_trainer": ["lightning"],
}
# On a machine with SLURM, in a class of its own that the process which collects the warnings cannot import.
pytestmark = pytest.mark.filterwarnings("ignore:The `srun` command is available")


@pytest.fixture
def functions(script):
    """What a script defines; its libraries keep a state for the process that is given up afterwards."""
    for library in NEEDS[script.stem]:
        pytest.importorskip(library)
    yield runpy.run_path(str(script))
    if "accelerate" in sys.modules:
        state = sys.modules["accelerate"].state
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()


def posterior(result):
    """The parameters and their Hessians."""
    model, optimizer = result if isinstance(result, tuple) else (result, result.optimizers())
    states = ivon.find_ivon(optimizer).state
    return [part for p in model.parameters() for part in (p.detach(), states[p]["hess"])]


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_example_learns_and_resumes(script, functions, tmp_path, capsys, monkeypatch):
    train = functions["train"]
    whole = posterior(train(tmp_path / "whole", 2))
    train(tmp_path / "resumed", 1)
    resumed = posterior(train(tmp_path / "resumed", 2))
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))

    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "resumed"), "--epochs", "3"])
    capsys.readouterr()
    functions["main"]()
    mean, averaged = capsys.readouterr().out.splitlines()[-2:]
    for line in (mean, averaged):
        assert float(line.partition("accuracy ")[2].split(",")[0]) > 0.75  # 0.1 at first
    assert averaged.startswith("16 posterior draws")


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_example_says_what_it_shows_and_is_listed(script):
    head = script.read_text().splitlines()[:4]
    assert head[0].startswith('"""') and head[3] == '"""'
    assert f"`{script.name}`" in (ROOT / "examples" / "README.md").read_text()


def test_commands_of_the_readme_are_understood(tmp_path):
    lines = (ROOT / "examples" / "README.md").read_text().splitlines()
    commands = [line.split() for line in lines if line.startswith("    python ")]
    assert commands
    pytest.importorskip("transformers")
    answer = subprocess.run(
        [sys.executable, *commands[0][1:2], "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert answer.returncode == 0 and "--epochs" in answer.stdout
