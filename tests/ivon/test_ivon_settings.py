"""A wrong setting is one clear line that names it, its value and what is allowed."""

import copy
import io
import math
import re
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
    ({"lr": torch.tensor(-0.1)}, r"lr must be a finite number >= 0, got -0\.1"),
    ({"lr": torch.tensor(math.nan)}, r"lr must be a finite number >= 0, got nan"),
    (
        {"lr": torch.ones(2)},
        r"lr must be .* or a floating-point tensor of one, got torch.float32 of shape \(2,\)",
    ),
    (
        {"lr": torch.tensor(1)},
        r"lr must be .* or a floating-point tensor of one, got torch.int64 of shape \(\)",
    ),
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
    ({"betas": (0.9, 1.0)}, r"beta2 must be a number in \[0, 1\), got 1.0"),
    ({"betas": 0.9}, r"betas must be a pair of numbers in \[0, 1\), got 0.9"),
    ({"betas": (0.8, 0.9), "beta1": 0.7}, r"beta1 must be given once, got 0.7 and betas = \(0.8, 0.9\)"),
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


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_learning_rate_may_be_a_tensor_of_one(shape, capturable):
    """0.25 is the same number in all dtypes."""
    means = []
    for lr in (0.25, torch.full(shape, 0.25), torch.full(shape, 0.25, dtype=torch.bfloat16)):
        p = params()
        optimizer = IVON(p, lr=lr, ess=10.0, capturable=capturable)
        optimizer.seed(0)
        for _ in range(2):
            with optimizer.sampled_params(train=True):
                (p[0] ** 2).sum().backward()
            optimizer.step()
        assert optimizer.param_groups[0]["lr"] is lr
        means.append(p[0].detach())
    tolerance = 1e-6 if capturable else 0  # there the tensor takes part in products
    for mean in means[1:]:
        torch.testing.assert_close(mean, means[0], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("saved", ["tensor", "number"])
def test_a_learning_rate_that_is_a_tensor_stays_where_it_is_when_a_state_is_loaded(saved):
    lr = torch.tensor([0.5])
    optimizer = IVON(params(), lr=lr, ess=10.0)
    other = torch.tensor(0.25) if saved == "tensor" else 0.25
    optimizer.load_state_dict(IVON(params(), lr=other, ess=10.0).state_dict())
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr.tolist() == [0.25]


OTHER_SETTINGS = {
    "lr": 0.3,
    "ess": 7.0,
    "hess_init": 0.5,
    "beta1": 0.8,
    "beta2": 0.99,
    "weight_decay": 1e-3,
    "clip_radius": 0.3,
    "mc_samples": 4,
    "hess_approx": "gradsq",
    "sync": True,
    "debias": False,
    "rescale_lr": False,
    "capturable": True,
}
SHARED = ("mc_samples", "hess_approx", "sync", "debias", "rescale_lr", "capturable")


def through_a_checkpoint(optimizer):
    optimizer.load_state_dict(optimizer.state_dict())
    return optimizer


@pytest.mark.parametrize(
    "then", [lambda o: o, through_a_checkpoint, copy.deepcopy], ids=["new", "loaded", "copied"]
)
@pytest.mark.parametrize("groups_of", ["parameters", "parameter groups"])
def test_defaults_make_the_same_optimizer(groups_of, then):
    """As trainers do that build an optimizer anew: on other parameters, or from the groups of the old one."""
    optimizer = then(IVON(params(), **OTHER_SETTINGS))
    given = params() if groups_of == "parameters" else optimizer.param_groups
    twin = type(optimizer)(given, **optimizer.defaults)
    assert twin.defaults == optimizer.defaults
    for name in SHARED:
        assert getattr(twin, name) == OTHER_SETTINGS[name]
        assert name not in twin.param_groups[0]
    of_groups = OTHER_SETTINGS.keys() - SHARED
    assert {name: twin.param_groups[0][name] for name in of_groups} == {
        n: OTHER_SETTINGS[n] for n in of_groups
    }


def test_groups_of_another_optimizer_keep_what_schedulers_have_set():
    old = IVON(params(), lr=0.1, ess=10.0)
    old.param_groups[0]["betas"] = (0.95, 0.99)  # and no step since
    group = IVON(old.param_groups, **old.defaults).param_groups[0]
    assert (group["beta1"], group["beta2"], group["betas"]) == (0.95, 0.99, (0.95, 0.99))


def test_betas_of_groups():
    groups = [
        {"params": params(), "betas": (0.5, 0.6)},
        {"params": params(), "beta1": 0.7},
        {"params": params()},
    ]
    optimizer = IVON(groups, lr=0.1, ess=10.0, betas=(0.8, 0.9))
    assert [(g["beta1"], g["beta2"]) for g in optimizer.param_groups] == [(0.5, 0.6), (0.7, 0.9), (0.8, 0.9)]
    assert all(g["betas"] == (g["beta1"], g["beta2"]) for g in optimizer.param_groups)


@pytest.mark.parametrize("name", SHARED)
def test_what_all_groups_share_is_not_for_one(name):
    other = OTHER_SETTINGS[name]
    usual = IVON(params(), lr=0.1, ess=10.0).defaults[name]
    message = rf"{name} must be the same for all parameter groups.* got {other!r} in a group and {usual!r}"
    with pytest.raises(ValueError, match=message):
        IVON([{"params": params(), name: other}], lr=0.1, ess=10.0)
    IVON([{"params": params(), name: usual}], lr=0.1, ess=10.0)


def test_without_weight_decay_there_is_a_warning_that_says_what_to_write():
    groups = [{"params": params()}, {"params": params(), "weight_decay": 0.0}]
    with pytest.warns(
        UserWarning, match=r"weight_decay is 0 in parameter group 1: .* no proper prior"
    ) as seen:
        optimizer = IVON(groups, lr=0.1, ess=10.0)
    (warning,) = seen
    assert warning.filename == __file__
    assert "\n" not in str(warning.message)
    (line,) = re.findall(r"for group in .* or 1e-4", str(warning.message))
    exec(line, {"optimizer": optimizer})
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-4, 1e-4]
    with pytest.warns(UserWarning, match="weight_decay is 0 in parameter group 2:"):
        optimizer.add_param_group({"params": params(), "weight_decay": 0})
    with pytest.warns(UserWarning, match="weight_decay is 0 in parameter groups 1, 2:"):
        IVON(optimizer.param_groups[1:] + [{"params": params()}], lr=0.1, ess=10.0, weight_decay=0.0)


@pytest.mark.filterwarnings("error")
def test_no_warning_where_there_is_nothing_to_learn_or_it_was_given_before():
    frozen = [p.requires_grad_(False) for p in params()]
    IVON([{"params": frozen, "weight_decay": 0.0}, {"params": params()}], lr=0.1, ess=10.0)


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
