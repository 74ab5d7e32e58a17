"""Suggested settings are those of the paper's runs, from the settings that SGD and AdamW have there."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam, AdamW

from ivon import IVON
from ivon.diagnostics import diagnose
from ivon.suggest import LIKE, beta2_for, suggest

CIFAR = {"examples": 50_000, "steps": 200_000, "like": "resnet"}  # batches of 50, 200 epochs
TINY = {"examples": 100_000, "steps": 400_000, "like": "resnet"}
IMAGENET = {"examples": 1_281_167, "steps": 250_200, "like": "resnet"}  # batches of 1024, 200 epochs
OPENWEBTEXT = {"examples": 9_035_582_198, "steps": 100_000, "like": "gpt2"}
SGD_CIFAR = {"lr": 0.1, "momentum": 0.9, "weight_decay": 2e-4}


@pytest.mark.parametrize(
    ("optimizer", "numbers"),
    [(SGD, SGD_CIFAR), (AdamW, {"lr": 0.002, "weight_decay": 2e-4})],
    ids=["sgd", "adamw"],
)
def test_cifar_of_section_c2(optimizer, numbers):
    got = suggest(optimizer, **numbers, **CIFAR)
    assert got.settings == {
        "lr": 0.2,
        "ess": 50_000.0,
        "hess_init": 0.5,
        "beta1": 0.9,
        "beta2": 0.99999,
        "weight_decay": 2e-4,
        "mc_samples": 1,
        "clip_radius": math.inf,
        "rescale_lr": True,
    }
    assert got.sigma == pytest.approx(0.006323, rel=1e-4)
    assert got.warmup_steps == 5_000  # 5 epochs


@pytest.mark.parametrize(
    ("optimizer", "numbers"),
    [
        (SGD, {"lr": 0.5, "momentum": 0.9, "weight_decay": 5e-5}),
        (AdamW, {"lr": 1e-3, "weight_decay": 0.1}),
    ],
    ids=["sgd", "adamw"],
)
def test_imagenet_of_section_c2(optimizer, numbers):
    got = suggest(optimizer, **numbers, **IMAGENET)
    exact = {"ess": 1_281_167.0, "hess_init": 0.05, "beta2": 0.999995, "weight_decay": 5e-5}
    assert {name: got.settings[name] for name in exact} == exact
    assert got.settings["clip_radius"] == math.inf
    assert got.warmup_steps == 6_255  # 5 epochs
    # The paper has 2.5, five times SGD's; its guideline says "slightly larger". Nothing is said of AdamW's.
    assert got.settings["lr"] == (1.0 if optimizer is SGD else 0.1)


def test_tinyimagenet_of_section_c2_to_a_factor_of_two():
    """There ess is 200,000, twice the number of images, with hess_init 0.5 and beta2 0.99999."""
    got = suggest(SGD, **SGD_CIFAR, **TINY).settings
    assert (got["lr"], got["weight_decay"]) == (0.2, 2e-4)
    assert (got["ess"], got["hess_init"]) == (100_000.0, 0.25)
    assert got["beta2"] == 0.999995


@pytest.mark.parametrize(
    ("adamw_lr", "paper_lr"), [(6e-4, 0.3), (3e-4, 0.2), (2e-4, 0.15)], ids=["125M", "355M", "773M"]
)
def test_gpt2_of_section_c1(adamw_lr, paper_lr):
    got = suggest(AdamW, lr=adamw_lr, betas=(0.9, 0.95), weight_decay=0.1, **OPENWEBTEXT)
    exact = {"hess_init": 1e-3, "beta1": 0.9, "beta2": 0.99999, "weight_decay": 1e-6, "clip_radius": 1e-3}
    assert {name: got.settings[name] for name in exact} == exact
    assert got.settings["rescale_lr"] is False  # so that lr is that of the paper's text
    assert got.settings["lr"] == pytest.approx(paper_lr, rel=1e-6 if paper_lr == 0.2 else 0.34)
    assert got.settings["ess"] == 9_035_582_198.0  # the paper rounds to 1e10
    assert got.warmup_steps == 2_000


def test_roberta_has_the_learning_rate_of_appendix_a_and_an_ess_that_keeps_small_sets_quiet():
    got = suggest(AdamW, lr=2e-5, weight_decay=0.1, examples=2_490, steps=1_500, like="roberta")
    assert got.settings["lr"] == 0.1
    assert got.settings["ess"] > 2_490
    assert got.sigma == pytest.approx(0.002, rel=1e-3)
    assert suggest(SGD, lr=1.0, examples=10**9, steps=10**5, like="gpt2").settings["lr"] == 0.2


@settings(max_examples=60, deadline=None)
@given(examples=st.floats(1, 1e13), like=st.sampled_from(LIKE), optimizer=st.sampled_from([SGD, Adam, AdamW]))
def test_sigma_follows_from_the_settings_and_is_small_for_any_number_of_examples(examples, like, optimizer):
    got = suggest(optimizer, lr=0.01, examples=examples, steps=1_000, like=like)
    s = got.settings
    assert got.sigma == pytest.approx((s["ess"] * (s["hess_init"] + s["weight_decay"])) ** -0.5)
    assert got.sigma <= 0.00633  # CIFAR-10's, a tenth of the weights of a ResNet-20 at the start
    assert s["ess"] >= examples


@settings(max_examples=100, deadline=None)
@given(steps=st.integers(1_500, 1_500_000))
def test_memory_of_the_hessian_is_comparable_to_the_training(steps):
    # Neighbouring values are a factor of 5 or 2 apart: at most a factor of sqrt(5) from 1.5.
    assert 0.67 < steps * (1 - beta2_for(steps)) < 3.36


def test_memory_of_the_hessian_grows_with_the_training_within_limits():
    values = [beta2_for(10**k) for k in range(1, 10)]
    assert values == sorted(values)
    assert (values[0], values[-1]) == (0.999, 0.999999)


def test_learning_rate_of_sgd_counts_by_the_length_of_its_steps():
    """Heavy-ball steps add up to lr / (1 - momentum) times the gradient."""
    want = suggest(SGD, lr=0.1, momentum=0.9, **CIFAR)
    plain = suggest(SGD, lr=1.0, **CIFAR)
    dampened = suggest(SGD, lr=1.0, momentum=0.9, dampening=0.9, **CIFAR)
    assert want.settings == plain.settings == dampened.settings
    assert "our choice" not in want.reasons["lr"]
    assert "our choice" in plain.reasons["lr"] and "our choice" in dampened.reasons["lr"]


@pytest.mark.parametrize("like", LIKE)
def test_weight_decay_is_kept_where_it_is_a_penalty_and_not_where_it_is_decoupled(like):
    where = {"examples": 50_000, "steps": 10_000, "like": like}
    coupled = [suggest(kind, lr=0.1, weight_decay=3e-3, **where) for kind in (SGD, Adam)]
    decoupled = [
        suggest(AdamW, lr=0.1, weight_decay=3e-3, **where),
        suggest(Adam, lr=0.1, weight_decay=3e-3, decoupled_weight_decay=True, **where),
    ]
    assert [s.settings["weight_decay"] for s in coupled] == [3e-3, 3e-3]
    assert decoupled[0].settings == decoupled[1].settings
    assert decoupled[0].settings["weight_decay"] == (2e-4 if like == "resnet" else 3e-8)
    assert all("our choice" in s.reasons["weight_decay"] for s in decoupled)
    assert all(s.reasons["weight_decay"].startswith("unchanged") for s in coupled)


@pytest.mark.parametrize("like", LIKE)
@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
@pytest.mark.filterwarnings("error")
def test_a_proper_prior_is_suggested_where_there_was_none(kind, like):
    got = suggest(kind, lr=0.1, weight_decay=0.0, examples=50_000, steps=10_000, like=like)
    assert got.settings["weight_decay"] == (2e-4 if like == "resnet" else 1e-6)
    assert "our choice" in got.reasons["weight_decay"]
    IVON([nn.Parameter(torch.ones(2))], **got.settings)


def test_an_instance_counts_by_its_largest_group_and_the_peak_of_its_schedule():
    large, small = nn.Parameter(torch.zeros(9)), nn.Parameter(torch.zeros(2))
    groups = [{"params": [small], "lr": 5.0, "weight_decay": 0.0}, {"params": [large]}]
    optimizer = SGD(groups, **SGD_CIFAR)
    assert suggest(optimizer, **CIFAR) == suggest(SGD, **SGD_CIFAR, **CIFAR)
    torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01)
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.001)
    assert suggest(optimizer, **CIFAR) == suggest(SGD, **SGD_CIFAR, **CIFAR)


@pytest.mark.parametrize("like", LIKE)
@pytest.mark.parametrize("optimizer", [SGD, Adam, AdamW])
def test_settings_are_ivons_and_each_has_a_reason(optimizer, like):
    got = suggest(optimizer, lr=0.01, examples=50_000, steps=10_000, like=like)
    p = nn.Parameter(torch.ones(3))
    ivon = IVON([p], **got.settings)
    with ivon.sampled_params(train=True):
        (p**2).sum().backward()
    ivon.step()
    assert p.isfinite().all() and not torch.equal(p, torch.ones(3))
    assert got.reasons.keys() >= {*got.settings, "sigma", "warmup_steps", "schedule", "batches"}
    sources = ("App. ", "Sec. ", "our choice", "Fig. ", "the paper")
    assert all(any(source in reason for source in sources) for reason in got.reasons.values())
    text = str(got)
    assert all(name in text for name in got.reasons)
    assert all(f"{name} = {value}" in text for name, value in got.settings.items())
    assert max(map(len, text.splitlines())) <= 110


def test_few_examples_are_told_from_the_usual():
    few, many = (suggest(SGD, lr=0.1, examples=n, steps=400, like="resnet") for n in (1_000, 50_000))
    assert few.settings["hess_init"] == 25.0  # out of the tutorial's range, and it says so
    assert "few examples" in few.reasons["hess_init"] and "few examples" not in many.reasons["hess_init"]


def test_a_suggestion_has_nothing_to_be_warned_of_and_trains():
    """Two rings, by a multilayer perceptron whose SGD setting is known to train."""
    rng = torch.Generator().manual_seed(0)
    angle = torch.rand(1_000, generator=rng) * math.tau
    labels = torch.arange(1_000) % 2
    x = torch.stack([angle.cos(), angle.sin()], -1) * (1 + labels[:, None])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    sgd = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    optimizer = IVON(model.parameters(), **suggest(sgd, examples=1_000, steps=400, like="resnet").settings)
    optimizer.seed(0)
    assert diagnose(optimizer, total_steps=400).warnings == []
    for step in range(400):
        batch = torch.arange(50) + 50 * (step % 20)
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), labels[batch]).backward()
        optimizer.step()
    assert (model(x).argmax(-1) == labels).float().mean() > 0.95
    assert diagnose(optimizer).warnings == []


@pytest.mark.parametrize(
    ("optimizer", "wrong", "message"),
    [
        (SGD, {"examples": 0}, "examples must be a finite number > 0, got 0"),
        (SGD, {"examples": math.nan}, "examples must be .*, got nan"),
        (SGD, {"steps": 0}, "steps must be a finite number >= 1, got 0"),
        (SGD, {"like": "vgg"}, "like must be one of resnet, gpt2, roberta; got 'vgg'"),
        (SGD, {"momentum": 1.0}, "momentum must be < 1, got 1.0"),
        (torch.optim.RMSprop, {}, "optimizer must be torch.optim's SGD, Adam or AdamW, got RMSprop"),
        (SGD([torch.zeros(1)]), {"lr": 0.1}, "lr: settings may be given with the class of an optimizer"),
        ("sgd", {}, "optimizer must be torch.optim's SGD, Adam or AdamW, got str"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(optimizer, wrong, message):
    with pytest.raises(ValueError, match=message):
        suggest(optimizer, **{**CIFAR, **wrong})


def test_wrong_settings_are_refused_by_the_optimizer_that_they_are_for():
    with pytest.raises(TypeError, match="betas"):
        suggest(SGD, lr=0.1, betas=(0.9, 0.99), **CIFAR)
