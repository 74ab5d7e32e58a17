"""GPT-2 and the library transformers: the same function, the same weights, folders that its tools load."""

import pytest
import torch

from experiments.errors import RunError
from experiments.models.gpt2 import Size
from experiments.models.gpt2.network import GPT2
from experiments.models.gpt2.transformers_format import export, from_transformers, to_transformers
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


def test_there_and_back_changes_no_bit(model):
    before = torch.random.get_rng_state()
    back = from_transformers(to_transformers(model))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert back.size == TINY
    for (name, one), other in zip(model.named_parameters(), back.parameters(), strict=True):
        assert torch.equal(one, other), name
        assert one.data_ptr() != other.data_ptr(), name


def theirs(**changes):
    settings = {"activation_function": "gelu", "n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 11}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**settings, **changes}))


def test_a_fresh_network_of_transformers_is_ours():
    given = theirs().eval()
    ours = from_transformers(given)
    with torch.no_grad():
        assert torch.allclose(ours(tokens() % 11), given(tokens() % 11).logits, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_function": "gelu_new"},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"layer_norm_epsilon": 1e-6},
        {"tie_word_embeddings": False},
        {"n_inner": 16},
    ],
)
def test_a_network_that_ours_cannot_be_is_refused(changes):
    with pytest.raises(RunError, match=f"{next(iter(changes))} = .*our GPT-2 has"):
        from_transformers(theirs(**changes))


def test_biases_are_refused():
    given = theirs()
    with torch.no_grad():
        given.transformer.h[0].mlp.c_fc.bias[3] = 1e-9
    with pytest.raises(RunError, match=r"transformer.h.0.mlp.c_fc.bias is not zero"):
        from_transformers(given)


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
