"""What `print` and a debugger show of the public objects: a line or two, however large the model is."""

import pytest
import torch
from torch import nn

import ivon


def posterior(tensors: int = 3, entries: int = 4, sigma: float = 0.5, **more: object) -> ivon.Posterior:
    names = [f"layers.{i}.weight" for i in range(tensors)]
    return ivon.Posterior(
        mean={name: torch.ones(entries) for name in names},
        precision={name: torch.full((entries,), sigma**-2) for name in names},
        prior_precision=dict.fromkeys(names, 10.0),
        **more,
    )


def test_a_posterior_is_its_size_place_and_width():
    assert repr(posterior()) == (
        "Posterior(12 parameters in 3 tensors, float32 on cpu, sigma 0.5, prior precision 10)"
    )
    assert "12,000 parameters in 1 tensor, " in repr(posterior(1, 12_000))
    assert repr(posterior(fixed=("bias", "scale"))).endswith("prior precision 10, 2 fixed)")


def test_widths_are_those_of_draws():
    torch.manual_seed(0)
    learned = ivon.Posterior(
        mean={"a": torch.zeros(1000), "b": torch.zeros(5, dtype=torch.float64), "c": torch.zeros(0)},
        precision={
            "a": torch.linspace(4.0, 100.0, 1000),
            "b": torch.full((5,), 1.0, dtype=torch.float64),
            "c": torch.zeros(0),
        },
        prior_precision={"a": 0.0, "b": 2.5, "c": 1.0},
    )
    shown = repr(learned)
    assert "sigma 0.1 to 1, prior precision 0 to 2.5" in shown
    assert "float32 on cpu and float64 on cpu" in shown
    empty = ivon.Posterior(
        mean={"c": torch.zeros(0)}, precision={"c": torch.zeros(0)}, prior_precision={"c": 1.0}
    )
    assert "sigma" not in repr(empty)


def test_a_mixture_is_its_members_and_weights():
    assert repr(ivon.Mixture([posterior()] * 5)) == (
        "Mixture(5 members of 12 parameters in 3 tensors, equal weights)"
    )
    assert repr(ivon.Mixture([posterior()] * 2, [1, 3])).endswith("tensors, weights 0.25, 0.75)")


def test_all_public_objects_are_short():
    model = nn.Sequential(*(nn.Linear(20, 20) for _ in range(100)))
    optimizer = ivon.IVON(model.parameters(), lr=0.1, ess=1000)
    for _ in range(2):
        with optimizer.sampled_params(train=True):
            model(torch.ones(3, 20)).square().mean().backward()
        optimizer.step()
    learned = ivon.Posterior.of(model, optimizer)
    suggestion = ivon.suggest(
        torch.optim.SGD,
        lr=0.1,
        momentum=0.9,
        weight_decay=2e-4,
        examples=50_000,
        steps=200_000,
        like="resnet",
    )
    mixture = ivon.Mixture([learned] * 100, range(1, 101))
    for shown in (learned, mixture, ivon.diagnose(optimizer, model), suggestion, optimizer):
        assert type(shown).__name__ in repr(shown)
        assert len(repr(shown)) < 1500
        assert "tensor(" not in f"{shown} {shown!r}"


@pytest.mark.parametrize("word", ["lr", "hess_init"])
def test_a_suggestions_numbers_are_seen(word):
    suggestion = ivon.suggest(torch.optim.AdamW, lr=1e-3, examples=50_000, steps=1000, like="gpt2")
    assert f"'{word}': {suggestion.settings[word]!r}" in repr(suggestion)
