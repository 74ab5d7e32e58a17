"""LoRA through peft: the posterior is over the adapters, and nothing else of a language model changes."""

import pytest
import torch

from ivon import IVON

STEPS = 25


@pytest.fixture(scope="module")
def peft(library):
    library("transformers")
    return library("peft")


def language_model(library):
    transformers = library("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=16,
        n_positions=12,
        n_embd=16,
        n_layer=2,
        n_head=2,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        initializer_range=0.3,  # a base that is not trained, but does something
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


def with_adapters(peft, model):
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, lora_alpha=16, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    return peft.get_peft_model(model, config)


def train(model, params, tokens):
    optimizer = IVON(params, lr=0.3, ess=10_000.0, hess_init=0.1, beta2=0.999)
    optimizer.seed(0)
    losses = []
    for _ in range(STEPS):
        with optimizer.sampled_params(train=True):
            loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
        losses.append(loss.item())
        optimizer.step()
    return optimizer, losses


def test_lora(peft, library, tmp_path):
    tokens = (torch.arange(12) * torch.tensor([[1], [3], [5], [7]])) % 16
    base = {name: value.clone() for name, value in language_model(library).state_dict().items()}
    model = with_adapters(peft, language_model(library))
    adapters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert adapters and all("lora_" in name for name in adapters)

    optimizer, losses = train(model, model.parameters(), tokens)  # the frozen ones, too
    assert losses[-1] < 0.6 * losses[0]
    assert set(optimizer.state) == set(adapters.values())
    for param in adapters.values():
        assert (optimizer.state[param]["hess"] != 0.1).any()

    twin = with_adapters(peft, language_model(library))
    train(twin, [p for p in twin.parameters() if p.requires_grad], tokens)  # only the trainable ones
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)

    with torch.no_grad(), optimizer.sampled_params():
        drawn = model(input_ids=tokens).logits
    with torch.no_grad():
        logits = model(input_ids=tokens).logits
    assert not torch.equal(drawn, logits)

    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(language_model(library), tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=tokens).logits, logits)
    assert all(torch.equal(value, base[name]) for name, value in model.unload().state_dict().items())
