"""GPT-2 and the library transformers: the same function, folders that its tools load."""

import pytest
import torch

from experiments.errors import RunError
from experiments.models.gpt2 import Size
from experiments.models.gpt2.network import GPT2
from experiments.models.gpt2.transformers_format import export, to_transformers
from experiments.torchvision_guard import import_torchvision

import_torchvision()  # transformers imports it
transformers = pytest.importorskip("transformers")

TINY = Size(blocks=3, heads=2, width=24, context=20, vocabulary=50)


@pytest.fixture
def model() -> GPT2:
    torch.manual_seed(0)
    model = GPT2(TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


def tokens() -> torch.Tensor:
    return torch.randint(TINY.vocabulary, (4, TINY.context), generator=torch.Generator().manual_seed(1))


def test_logits_are_those_of_transformers(model):
    theirs = to_transformers(model)
    with torch.no_grad():
        difference = theirs(tokens()).logits - model(tokens())
        assert difference.abs().max() < 1e-5 < model(tokens()).std()


def test_the_copy_shares_no_memory_and_draws_no_random_numbers(model):
    before = torch.random.get_rng_state()
    theirs = to_transformers(model)
    assert torch.equal(torch.random.get_rng_state(), before)
    ours = {parameter.data_ptr() for parameter in model.parameters()}
    assert ours.isdisjoint(parameter.data_ptr() for parameter in theirs.parameters())


def test_an_exported_folder_loads_and_generates(model, tmp_path):
    folder = tmp_path / "made" / "gpt2"
    export(model, folder, {"tokenizer.json": b"{}"}, end_of_text=7)
    assert (folder / "tokenizer.json").read_bytes() == b"{}"
    assert [entry.name for entry in folder.parent.iterdir()] == ["gpt2"]
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(loaded(tokens()).logits, to_transformers(model)(tokens()).logits)
    written = loaded.generate(tokens()[:1, :3], max_new_tokens=8, do_sample=False)
    assert written.shape[1] > 3 and loaded.generation_config.eos_token_id == 7
    with pytest.raises(RunError, match="is there already"):
        export(model, folder)


def test_nothing_is_left_of_a_failed_export(model, tmp_path):
    with pytest.raises(RunError, match="cannot write"):
        export(model, tmp_path / "gpt2", {"no/such/folder": b""})
    assert list(tmp_path.iterdir()) == []
