"""The scripts under examples/ learn, and go on from a checkpoint to the bits of an uninterrupted run."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

import ivon

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("[a-z]*.py"))
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
        pytest.importorskip(library, exc_type=ImportError)
    yield vars(importlib.import_module(f"examples.{script.stem}"))
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


def test_commands_of_the_readme_name_scripts():
    text = (ROOT / "examples" / "README.md").read_text()
    modules = re.findall(r"^    python -m examples\.(\w+) \S+ --epochs \d$", text, re.MULTILINE)
    assert modules and set(modules) <= {script.stem for script in EXAMPLES}


def test_lightning_has_the_mean_after_an_exception(tmp_path):
    lightning = pytest.importorskip("lightning", exc_type=ImportError)
    example = importlib.import_module("examples.lightning_trainer")
    model = example.Classifier()
    before = [param.detach().clone() for param in model.parameters()]
    seen = []

    def fail(loss):
        seen.extend(param.detach().clone() for param in model.parameters())
        raise MemoryError

    model.on_before_backward = fail
    trainer = lightning.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        max_epochs=1,
        accumulate_grad_batches=2,
        callbacks=[example.LeaveDraw()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.raises(MemoryError):
        trainer.fit(model, torch.utils.data.DataLoader([(torch.zeros(64), 0)] * 4))
    assert not any(torch.equal(a, b) for a, b in zip(before, seen, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
