"""GPT-2: counted exactly, causal, initialised as it should be; activation checkpointing; samples."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from experiments.models.gpt2 import SIZES, Size
from experiments.models.gpt2.network import GPT2, decayed, loss
from experiments.models.gpt2.sampling import sample, token_entropies
from ivon import IVON

TINY = Size(blocks=2, heads=2, width=16, context=12, vocabulary=23)


def tiny(checkpointing: bool = False) -> GPT2:
    torch.manual_seed(0)
    model = GPT2(TINY, checkpointing=checkpointing)
    with torch.no_grad():  # as initialised, attention is all but uniform and nothing matters much
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(TINY.vocabulary, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "published"),
    [("gpt2-small", 124373760), ("gpt2-medium", 354599936), ("gpt2-large", 773582080)],
)
def test_counts_are_the_papers(name, published):
    with torch.device("meta"):
        model = GPT2(SIZES[name])
    assert SIZES[name].parameters == published == sum(p.numel() for p in model.parameters())


def test_mini_has_about_a_million_weights():
    assert SIZES["gpt2-mini"].parameters == sum(p.numel() for p in GPT2(SIZES["gpt2-mini"]).parameters())
    assert 0.9e6 < SIZES["gpt2-mini"].parameters < 1.2e6


def test_flops_are_those_of_the_matrix_products():
    """Counted by PyTorch in a forward pass, times three: backward takes twice as many."""
    from torch.utils.flop_counter import FlopCounterMode

    size = Size(blocks=3, heads=2, width=32, context=16, vocabulary=64)
    model = GPT2(size)
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        model(torch.zeros(1, size.context, dtype=torch.int64))
    norms = 6 * (2 * size.blocks + 1) * size.width  # 6 N counts them as if they were matrices
    assert size.flops_per_token - norms == 3 * counter.get_total_flops() / size.context


@pytest.mark.parametrize("change", [{"heads": 5}, {"width": 0}, {"blocks": True}, {"context": 1.5}])
def test_an_impossible_size_is_refused(change):
    with pytest.raises(ValueError, match=f"{'width' if 'heads' in change else next(iter(change))} = "):
        dataclasses.replace(SIZES["gpt2-small"], **change)


def test_a_token_changes_no_logits_before_it():
    model, text = tiny(), tokens(3, TINY.context)
    changed = text.clone()
    changed[:, 7] = (changed[:, 7] + 1) % TINY.vocabulary
    before, after = model(text), model(changed)
    assert before.shape == (3, TINY.context, TINY.vocabulary)
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=0, atol=0)
    assert (before[:, 7:] - after[:, 7:]).abs().amax(dim=(0, 2)).min() > 1e-3


def test_more_tokens_than_the_context_are_refused():
    with pytest.raises(ValueError, match="13 tokens are more than the context of 12"):
        tiny()(tokens(1, TINY.context + 1))


def test_initialisation_is_gpt2s():
    torch.manual_seed(0)
    model = GPT2(Size(blocks=2, heads=2, width=128, context=64, vocabulary=512))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert (parameter == 1).all(), name
            continue
        std = 0.02 / math.sqrt(4) if "_output" in name else 0.02
        assert parameter.std().item() == pytest.approx(std, rel=0.05), name
    text = torch.randint(512, (4, 64))
    assert loss(model(text), text.roll(-1, 1)).item() == pytest.approx(math.log(512), abs=0.1)


def test_loss_is_the_mean_log_probability_in_float32():
    logits, text = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    expected = -torch.stack(
        [logits[b, t].log_softmax(-1)[text[b, t]] for b in range(2) for t in range(5)]
    ).mean()
    torch.testing.assert_close(loss(logits, text), expected)
    assert loss(logits.bfloat16(), text).dtype == torch.float32


def test_groups_are_the_matrices_and_the_rest():
    with_decay, without = decayed(tiny())
    assert {p.dim() for p in with_decay} == {2} and {p.dim() for p in without} == {1}
    assert sum(p.numel() for p in with_decay + without) == TINY.parameters
    assert len(without) == 2 * TINY.blocks + 1


def test_output_layer_is_the_token_embedding():
    model = tiny()
    text = tokens(1, 3)
    loss(model(text), text).backward()
    gradient = model.tokens.weight.grad
    assert gradient is not None
    absent = [t for t in range(TINY.vocabulary) if t not in text]
    assert gradient[absent].abs().amax(dim=1).min() > 0  # through the output layer alone


def gradients_at_a_draw(checkpointing: bool) -> list[torch.Tensor]:
    model = tiny(checkpointing)
    optimizer = IVON(model.parameters(), lr=0.1, ess=10.0, hess_init=1.0)
    text = tokens(2, TINY.context)
    with optimizer.sampled_params(train=True, generator=torch.Generator().manual_seed(3)):
        loss(model(text), text.roll(-1, 1)).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_checkpointing_computes_the_same_gradients_at_a_posterior_draw():
    plain, again = gradients_at_a_draw(False), gradients_at_a_draw(True)
    assert len(plain) == len(list(tiny().parameters()))
    for one, other in zip(plain, again, strict=True):
        assert torch.equal(one, other)


def test_checkpointing_keeps_less_for_the_backward_pass():
    def kept(checkpointing: bool) -> int:
        sizes: list[int] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        model = tiny(checkpointing)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(tokens(2, TINY.context))
        return sum(sizes)

    assert kept(True) < kept(False) / 2


def test_samples_follow_the_networks_probabilities():
    model, prompt = tiny().eval(), tokens(4)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([sample(model, prompt, 1, 1.0, None, generator) for _ in range(3000)])
    assert torch.equal(drawn[:, :4], prompt.expand(3000, 4))
    share = F.one_hot(drawn[:, 4], TINY.vocabulary).double().mean(0)
    probability = model(prompt[None])[0, -1].softmax(-1).detach().double()
    assert (share - probability).abs().max() < 4.5 * math.sqrt(0.25 / 3000)  # 4.5 standard deviations at most


def test_samples_repeat_with_their_seed_beyond_the_context():
    model, prompt = tiny().eval(), tokens(5)
    one, two = (sample(model, prompt, 20, 0.8, 5, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one, two) and one.shape == (25,)
    other = sample(model, prompt, 20, 0.8, 5, torch.Generator().manual_seed(8))
    assert not torch.equal(one, other)


def test_one_likeliest_token_is_the_limit_of_no_temperature():
    model, prompt = tiny().eval(), tokens(5)
    coldest = sample(model, prompt, 10, 0.0, None, torch.Generator())
    assert torch.equal(coldest, sample(model, prompt, 10, 1.0, 1, torch.Generator().manual_seed(1)))
    assert coldest[5] == model(prompt[None])[0, -1].argmax()


def test_entropies_are_log_vocabulary_for_a_network_that_knows_nothing():
    model, text = tiny().eval(), tokens(9)
    expected = torch.distributions.Categorical(logits=model(text[None])[0].detach()).entropy()
    torch.testing.assert_close(token_entropies(model, text), expected)
    with torch.no_grad():
        model.tokens.weight.zero_()
    torch.testing.assert_close(token_entropies(model, text), torch.full((9,), math.log(TINY.vocabulary)))
