"""Settings: what they refuse, and that they reach the optimizers."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from baselines import METHODS
from baselines.method import Loss
from baselines.settings import BBB, IVON, OGN, SGD, SWAG, VOGN, AdaHessian, AdamW

MODEL = nn.Linear(2, 1)


def built(settings):
    return settings.build(MODEL, train_size=123, seed=0)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"lr": 0.0},
        {"lr": -0.1},
        {"lr": math.nan},
        {"lr": math.inf},
        {"lr": "0.1"},
        {"lr": True},
        {"lr": None},
        {"lr": 0.1, "weight_decay": -1e-4},
        {"lr": 0.1, "learning_rate": 0.1},
        {"lr": 0.1, "name": "sdg"},
    ],
    ids=str,
)
def test_bad_settings_are_refused(name, wrong):
    with pytest.raises(ValidationError):
        METHODS[name](**wrong)


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        (SGD, {"momentum": 1.0}),
        (AdamW, {"beta1": -0.1}),
        (AdamW, {"beta2": 1.0}),
        (AdamW, {"eps": 0.0}),
        (AdaHessian, {"beta2": 1.5}),
        (IVON, {"ess": 0.0}),
        (IVON, {"hess_init": 0.0}),
        (IVON, {"mc_samples": 0}),
        (IVON, {"mc_samples": 1.5}),
        (IVON, {"hess_approx": "exact"}),
        (IVON, {"clip_radius": 0.0}),
        (IVON, {"sync": 1}),
        (BBB, {"std_init": 1000.0}),
        (VOGN, {"damping": 0.0, "norm_posterior": False}),
        (OGN, {"damping": 0.0, "norm_posterior": False}),
    ],
    ids=lambda value: value if isinstance(value, type) else str(value),
)
def test_impossible_values_are_refused(method, wrong):
    with pytest.raises(ValidationError):
        method(lr=0.1, **wrong)


@pytest.mark.parametrize("name", METHODS)
def test_settings_are_frozen_and_named_as_registered(name):
    settings = METHODS[name](lr=0.1)
    assert settings.name == name
    with pytest.raises(ValidationError):
        settings.lr = 0.2


def test_sgd_is_torchs_heavy_ball():
    optimizer = built(SGD(lr=0.3, momentum=0.8, weight_decay=1e-3)).optimizer
    assert type(optimizer) is torch.optim.SGD
    expected = torch.optim.SGD(MODEL.parameters(), lr=0.3, momentum=0.8, weight_decay=1e-3)
    assert optimizer.defaults == expected.defaults
    assert optimizer.defaults["dampening"] == 0
    assert not optimizer.defaults["nesterov"]


def test_swag_gets_its_settings():
    settings = SWAG(
        lr=0.3, momentum=0.8, weight_decay=1e-3, swag_lr=0.05, swag_part=0.5, collections=3, rank=4
    )
    method = built(settings)
    expected = torch.optim.SGD(MODEL.parameters(), lr=0.3, momentum=0.8, weight_decay=1e-3)
    assert method.optimizer.defaults == expected.defaults
    assert method.gaussian.rank == 4
    method.begin_epoch(4, 10, 1)  # of ten epochs the last five collect, at their own rate
    assert method.optimizer.param_groups[0]["lr"] == 0.3
    method.begin_epoch(5, 10, 1)
    assert method.optimizer.param_groups[0]["lr"] == 0.05
    for _ in range(5):
        method.step(Loss(MODEL, torch.ones(4, 2), torch.ones(4, 1), criterion=nn.functional.mse_loss))
    assert method.gaussian.count == 3


def test_adamw_is_torchs():
    settings = AdamW(lr=0.3, beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=0.1)
    optimizer = built(settings).optimizer
    assert type(optimizer) is torch.optim.AdamW
    expected = torch.optim.AdamW(MODEL.parameters(), lr=0.3, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
    assert optimizer.defaults == expected.defaults


def test_adahessian_gets_its_settings():
    settings = AdaHessian(lr=0.3, beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=0.1)
    assert settings.double_backward
    defaults = built(settings).optimizer.defaults
    assert defaults == {"lr": 0.3, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}


def test_ivon_gets_its_settings():
    values = {"lr": 0.3, "ess": 50.0, "hess_init": 0.2, "beta1": 0.8, "beta2": 0.999, "weight_decay": 0.1}
    method = built(
        IVON(**values, clip_radius=2.0, mc_samples=3, hess_approx="gradsq", sync=True, rescale_lr=False)
    )
    optimizer = method.optimizer
    shared = {"mc_samples": 3, "hess_approx": "gradsq", "sync": True, "rescale_lr": False}
    usual = {"debias": True, "capturable": False, "betas": None}
    assert optimizer.defaults == {**values, "clip_radius": 2.0, **shared, **usual}
    assert (optimizer.mc_samples, optimizer.hess_approx, optimizer.sync) == (3, "gradsq", True)
    assert not optimizer.rescale_lr
    assert optimizer.debias  # as in the paper
    assert method.reduces_gradients


def test_ivons_defaults_depend_on_the_data():
    method = built(IVON(lr=0.3))
    assert method.optimizer.defaults["ess"] == 123.0  # the number of training examples, the paper's N
    assert method.optimizer.defaults["clip_radius"] == math.inf
    assert not method.reduces_gradients


def test_ivon_averages_the_loss_over_its_draws():
    """Three draws, three forward passes, and their mean is what the step returns."""
    model = nn.Linear(2, 1)
    method = IVON(lr=0.1, mc_samples=3).build(model, train_size=10, seed=0)
    seen = []

    def criterion(outputs, _targets):
        seen.append(outputs.square().mean())
        return seen[-1]

    returned = method.step(Loss(model, torch.ones(4, 2), torch.zeros(4), criterion=criterion))
    assert len({value.item() for value in seen}) == 3
    torch.testing.assert_close(returned, torch.stack(seen).mean().detach())
