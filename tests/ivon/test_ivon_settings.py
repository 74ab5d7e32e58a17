"""A wrong setting is one clear line that names it, its value and what is allowed."""

import io
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from ivon import IVON

WRONG = [
    ({"lr": -0.1}, r"lr must be a finite number >= 0, got -0.1"),
    ({"lr": math.nan}, r"lr must be .*, got nan"),
    ({"lr": "0.1"}, r"lr must be .*, got '0.1'"),
    ({"ess": 0.0}, r"ess must be a finite number > 0 .*, got 0.0"),
    ({"ess": -1}, r"ess must be .*, got -1"),
    ({"ess": math.inf}, r"ess must be .*, got inf"),
    ({"ess": True}, r"ess must be .*, got True"),
    ({"hess_init": 0.0, "weight_decay": 0.0}, r"hess_init \+ weight_decay must be > 0, .* got 0.0 \+ 0.0"),
    ({"hess_init": -1.0}, r"hess_init \+ weight_decay must be > 0"),
    ({"hess_init": math.nan}, r"hess_init must be a finite number, got nan"),
    ({"beta1": 1.0}, r"beta1 must be a number in \[0, 1\), got 1.0"),
    ({"beta1": -0.1}, r"beta1 must be"),
    ({"beta2": 1.0}, r"beta2 must be a number in \[0, 1\), got 1.0"),
    ({"weight_decay": -1e-4}, r"weight_decay must be a finite number >= 0, got -0.0001"),
    ({"clip_radius": 0.0}, r"clip_radius must be a number > 0 \(inf: no clipping\), got 0.0"),
    ({"mc_samples": 0}, r"mc_samples must be an integer >= 1, got 0"),
    ({"mc_samples": 2.0}, r"mc_samples must be an integer >= 1, got 2.0"),
    ({"hess_approx": "newton"}, r"hess_approx must be one of price, gradsq, ggn; got 'newton'"),
]
PER_GROUP = [(wrong, message) for wrong, message in WRONG if not {"mc_samples", "hess_approx"} & wrong.keys()]


def params():
    return [nn.Parameter(torch.ones(2))]


@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=str)
def test_constructor_refuses(wrong, message):
    with pytest.raises(ValueError, match=message) as error:
        IVON(params(), **{"lr": 0.1, "ess": 10.0, **wrong})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("wrong", "message"), PER_GROUP, ids=str)
def test_parameter_groups_are_checked_alike(wrong, message):
    with pytest.raises(ValueError, match=message):
        IVON([{"params": params(), **wrong}], lr=0.1, ess=10.0)
    optimizer = IVON(params(), lr=0.1, ess=10.0)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": params(), **wrong})


@pytest.mark.parametrize(
    "fine",
    [
        {"weight_decay": 0.0},
        {"lr": 0.0},
        {"beta1": 0.0},
        {"beta2": 0.0},
        {"hess_init": 1e-3},
        {"ess": 50_000},
    ],
)
def test_constructor_accepts(fine):
    p = params()
    optimizer = IVON(p, **{"lr": 0.1, "ess": 10.0, **fine})
    with optimizer.sampled_params(train=True):
        (p[0] ** 2).sum().backward()
    optimizer.step()
    assert p[0].isfinite().all()


def test_order_of_positional_arguments_is_that_of_the_released_package():
    optimizer = IVON(params(), 0.1, 10.0, 0.5, 0.8, 0.99, 1e-3, 4, "gradsq", 0.3, True, False, False)
    group = optimizer.param_groups[0]
    names = ("lr", "ess", "hess_init", "beta1", "beta2", "weight_decay", "clip_radius")
    assert [group[name] for name in names] == [0.1, 10.0, 0.5, 0.8, 0.99, 1e-3, 0.3]
    names = ("mc_samples", "hess_approx", "sync", "debias", "rescale_lr")
    assert [getattr(optimizer, name) for name in names] == [4, "gradsq", True, False, False]


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf, "1"])
def test_weight_of_a_draw_is_positive(weight):
    optimizer = IVON(params(), lr=0.1, ess=10.0)
    with pytest.raises(ValueError, match="weight must be a finite number > 0"):
        optimizer.sampled_params(train=True, weight=weight).__enter__()


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_parameters_are_real_numbers(dtype):
    with pytest.raises(ValueError, match="floating-point dtype"):
        IVON([nn.Parameter(torch.ones(2, dtype=dtype), requires_grad=False)], lr=0.1, ess=10.0)


def test_made_where_another_device_is_the_default():
    with torch.device("meta"):
        p = nn.Parameter(torch.ones(2))
        IVON([p], lr=0.1, ess=10.0)


def test_refused_group_is_not_added():
    optimizer = IVON([nn.Parameter(torch.ones(2))], lr=0.1, ess=10.0)
    with pytest.raises(ValueError, match="floating-point"):
        optimizer.add_param_group({"params": [torch.ones(2, dtype=torch.int64)]})
    assert len(optimizer.param_groups) == 1


def test_numbers_of_other_kinds_do_not_end_in_checkpoints():
    """NumPy's scalars would be code to run for torch.load."""
    given = {"params": params(), "weight_decay": np.float64(0.25), "beta2": Fraction(1, 2)}
    optimizer = IVON([given], lr=np.float32(0.5), ess=np.int64(10))
    optimizer.seed(np.int64(3))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    (group,) = torch.load(file, weights_only=True)["param_groups"]
    names = ("lr", "ess", "weight_decay", "beta2", "noise_seed")
    assert [group[name] for name in names] == [0.5, 10.0, 0.25, 0.5, 3]


@pytest.mark.parametrize("seed", [3.5, None, "3"])
def test_seed_is_an_integer(seed):
    with pytest.raises(TypeError, match="integer"):
        IVON(params(), lr=0.1, ess=10.0).seed(seed)
