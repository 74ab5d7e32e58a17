"""The commands `sample` and `export`, on a network that has just been trained."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.__main__ import main

pytestmark = pytest.mark.xdist_group("demonstration")  # all look at the same trained networks

ROOT = Path(__file__).parents[3]
TINY = ["train_steps=4", "eval_every=2", "width=16", "context=16", "eval_batches=1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of runs with IVON and AdamW trained for four steps, and the ids."""
    folder = tmp_path_factory.mktemp("gpt2")
    patch = pytest.MonkeyPatch()
    patch.setenv("IVON_DATA", str(folder / "data"))
    runs = folder / "runs"
    ids = {}
    for method in ("ivon", "adamw"):
        before = set((runs / "gpt2").glob("*.json"))
        command = ["run", "fig1a", "--only", f"method={method}", "seed=0", "--set", *TINY, "--jobs", "1"]
        assert main([*command, "--runs", str(runs)]) == 0
        (new,) = set((runs / "gpt2").glob("*.json")) - before
        ids[method] = new.stem
    yield runs, ids
    patch.undo()


def test_text_and_entropies(trained, capsys):
    runs, ids = trained
    capsys.readouterr()
    arguments = ["--prompt", "import ", "--tokens", "5", "--draws", "2", "--runs", str(runs)]
    assert main(["sample", ids["ivon"][:8], *arguments]) == 0
    said = capsys.readouterr().out
    assert "mean of the posterior" in said and "posterior draw 2" in said
    assert said.count("import ") >= 3
    rows = said.partition("== entropy")[2].splitlines()[2:]
    assert len(rows) == 5
    for row in rows:
        assert 0 < float(row.split()[-1]) <= 5.8  # nats; log of 320 tokens
    assert main(["sample", ids["ivon"], *arguments]) == 0
    assert capsys.readouterr().out == said  # the same each time
    assert main(["sample", ids["adamw"], *arguments]) == 0
    said = capsys.readouterr().out
    assert "the network" in said and "posterior" not in said


# What the documentation of transformers has, without a line of this project.
AS_ANYBODY = """
import json, sys
from transformers import AutoTokenizer, GPT2LMHeadModel
tokens = AutoTokenizer.from_pretrained(sys.argv[1])("import sys", return_tensors="pt")["input_ids"]
logits = GPT2LMHeadModel.from_pretrained(sys.argv[1])(tokens).logits
print(json.dumps({"tokens": tokens.tolist(), "logits": logits.tolist()}))
"""
GUARD = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); import experiments.torchvision_guard as g; g.watch()\n"
)


@pytest.mark.timeout(300)
def test_exported_network_is_the_mean(trained, tmp_path):
    """In the environment of scripts/setup anybody's script loads it as it is."""
    import torch

    from experiments.engine.distributed import single
    from experiments.engine.record import Store
    from experiments.engine.watch import Watch
    from experiments.gpt2.demonstration import language_run
    from experiments.gpt2.perplexity import trained_model

    runs, ids = trained
    assert main(["export", ids["ivon"], str(tmp_path / "out"), "--runs", str(runs)]) == 0
    code = AS_ANYBODY if (Path(sys.prefix) / "setup-stamp").exists() else GUARD + AS_ANYBODY
    answer = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "out"], cwd=tmp_path, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["tokens"] == [list(b"import sys")]
    store = Store(runs)
    spec = language_run(ids["ivon"], store)
    ours = trained_model(spec, store.folder(spec), single(torch.device("cpu")), Watch()).model
    with torch.no_grad():
        logits = ours(torch.tensor(found["tokens"]))
    torch.testing.assert_close(torch.tensor(found["logits"]), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sample", "0000"], "no finished training"),
        (["sample", "ivon", "--tokens", "0"], "--tokens 0: must be at least 1"),
        (["export", "0000", "."], "is there already"),
    ],
)
def test_mistakes_are_one_line(arguments, words, trained, capsys):
    runs, _ = trained
    capsys.readouterr()
    assert main([*arguments, "--runs", str(runs)]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
