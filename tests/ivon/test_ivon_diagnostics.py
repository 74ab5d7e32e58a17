"""The diagnosis is what the state says, entry by entry, and warns on the right side of each limit only."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ivon import IVON, _findings, _kernels, diagnostics
from ivon.diagnostics import diagnose

SETTINGS = {"lr": 0.1, "ess": 100.0, "hess_init": 0.5, "beta2": 0.9, "weight_decay": 0.5}


def with_state(hess, mean=None, momentum=None, *, steps=50, dtype=torch.float64, **changes):
    """An optimizer of one parameter in a given state."""
    hess = torch.as_tensor(hess, dtype=torch.promote_types(dtype, torch.float32))
    p = nn.Parameter(torch.ones_like(hess).to(dtype) if mean is None else torch.tensor(mean, dtype=dtype))
    optimizer = IVON([p], **{**SETTINGS, **changes})
    zeros = torch.zeros_like(hess)
    momentum = zeros if momentum is None else torch.tensor(momentum, dtype=hess.dtype)
    optimizer.state[p] = {"step": steps, "hess": hess, "momentum": momentum}
    if p.dtype != hess.dtype:
        optimizer.state[p]["residual"] = zeros.clone()
    return optimizer


def trained(params, steps=3, **changes):
    optimizer = IVON(params, **{**SETTINGS, **changes})
    optimizer.seed(0)
    for step in range(steps):
        step_of(optimizer, step)
    return optimizer


def step_of(optimizer, step=0):
    rng = torch.Generator().manual_seed(step)
    with optimizer.sampled_params(train=True):
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.requires_grad:
                    p.grad = p.detach() + torch.randn(p.shape, generator=rng, dtype=torch.float64).to(p.dtype)
    optimizer.step()


def make_params(dtype=torch.float64, shapes=((3, 4), (5,), (2, 2, 2))):
    rng = torch.Generator().manual_seed(1)
    return [
        nn.Parameter(torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)) for shape in shapes
    ]


def test_hand_computed_numbers():
    """h + delta = 4, 1, 0.25, 1 from 1 at the start; sigma = 0.05, 0.1, 0.2, 0.1."""
    optimizer = with_state(
        [3.5, 0.5, -0.25, 0.5],
        mean=[3.0, -4.0, 0.0, 0.0],
        momentum=[0.2, 0.2, 0.2, -0.2],
        steps=2,
        beta1=0.5,  # so that the momentum is divided by 0.75
        clip_radius=1.0,
    )
    d = diagnose(optimizer)
    f = d.total
    assert (f.entries, f.steps) == (4, 2)
    assert f.noise_rms == pytest.approx(math.sqrt((0.05**2 + 2 * 0.1**2 + 0.2**2) / 4))
    assert f.weight_rms == pytest.approx(2.5)
    assert f.noise_to_weight == pytest.approx(f.noise_rms / 2.5)
    assert f.hess_median == pytest.approx(0.0)  # of 3, 0, -0.75, 0
    assert f.hess_change == pytest.approx(0.375)  # of 3, 0, 0.75, 0
    assert f.hess_high == pytest.approx(3 * 0.85)  # 85 % of the way from the third to the last
    assert f.hess_low == pytest.approx(-0.75 * 0.85)
    assert f.effective_lr == pytest.approx(0.1)  # of 0.025, 0.1, 0.4, 0.1
    # (0.2667 + 1.5) / 4 = 0.44, |0.2667 - 2| / 1 = 1.73, 0.2667 / 0.25 = 1.07, 0.2667 / 1
    assert f.clipped == 0.5
    assert f.negative == 0.25
    assert (f.floored, f.unresolved, f.nonfinite) == (0, 0, 0)
    assert d.groups == (f,)
    assert list(d.tensors.values()) == [f.noise_to_weight]


@settings(max_examples=30, deadline=None)
@given(
    ess=st.floats(1e-3, 1e9), hess_init=st.floats(1e-4, 1e3), delta=st.sampled_from([0.0, 1e-6, 0.1]),
    lr=st.floats(1e-4, 1e3), rescale=st.booleans(), dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_before_the_first_step_it_tells_of_the_settings(ess, hess_init, delta, lr, rescale, dtype):
    params = make_params(dtype)
    optimizer = IVON(params, lr, ess, hess_init, weight_decay=delta, rescale_lr=rescale)
    f = diagnose(optimizer).total
    assert not optimizer.state  # nothing was made only to be looked at
    assert (f.steps, f.entries) == (0, 25)
    assert (f.hess_change, f.hess_low, f.hess_median, f.hess_high) == (0, 0, 0, 0)
    # Of float32 numbers.
    assert f.noise_rms == pytest.approx((ess * (hess_init + delta)) ** -0.5, rel=1e-5)
    assert f.effective_lr == pytest.approx(lr if rescale else lr / (hess_init + delta), rel=1e-5)
    with optimizer.sampled_params():
        pass  # now there is a state
    assert optimizer.state
    assert diagnose(optimizer).total == f


@pytest.mark.parametrize("rescale", [True, False])
def test_effective_learning_rate_is_that_of_the_next_step(rescale):
    (p,) = params = make_params(shapes=((1,),))
    optimizer = trained(params, weight_decay=0.0, beta1=0.0, beta2=1 - 1e-12, rescale_lr=rescale)
    before, lr = p.item(), diagnose(optimizer).total.effective_lr
    step_of(optimizer)
    assert before - p.item() == pytest.approx(lr * optimizer.state[p]["momentum"].item(), rel=1e-6)


@pytest.mark.parametrize("debias", [True, False])
@pytest.mark.parametrize("clip_radius", [0.3, 1.0, 3.0])
def test_share_clipped_is_that_of_the_step_just_made(clip_radius, debias):
    """With weight_decay = 0 a step depends on momentum and Hessian only, and these are still there."""
    (p,) = params = make_params(shapes=((400,),))
    optimizer = trained(params, 4, weight_decay=0.0, clip_radius=clip_radius, debias=debias)
    before = p.detach().clone()
    step_of(optimizer, 9)
    limit = 0.1 * 0.5 * clip_radius  # lr (h0 + delta) clip_radius
    moved = (p.detach() - before).abs()
    assert ((moved > 0) & (moved <= limit * (1 + 1e-9))).all()
    share = (moved >= limit * (1 - 1e-9)).double().mean().item()
    assert 0 < share < 1
    assert diagnose(optimizer).total.clipped == share


def test_the_noise_is_that_of_draws():
    (p,) = params = make_params(shapes=((5_000,),))
    optimizer = trained(params)
    with optimizer.sampled_params():
        draw = p.detach().clone()
    # The mean square of 5,000 normals has a standard error of 2 %, their root 1 %.
    assert (draw - p).detach().square().mean().sqrt().item() == pytest.approx(
        diagnose(optimizer).total.noise_rms, rel=0.06
    )


def test_it_changes_nothing():
    def train(look):
        params = make_params()
        optimizer = trained(params, 2)
        if look:
            diagnose(optimizer, total_steps=10)
        step_of(optimizer)
        return [value for p in params for value in (p.detach(), *optimizer.state[p].values())]

    assert all(
        torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(train(0), train(1), strict=True)
    )


def test_a_loaded_state_has_the_same_diagnosis():
    params = make_params(torch.bfloat16)
    optimizer = trained(params)
    copied = [nn.Parameter(p.detach().clone()) for p in params]
    other = IVON(copied, **SETTINGS)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert diagnose(other) == diagnose(optimizer)


def test_steps_counted_elsewhere_are_asked_for():
    """A capturable optimizer has their number beside its state, until it is wanted."""
    changes = {"beta1": 0.9, "clip_radius": 1.0}
    plain, capturable = (trained(make_params(), capturable=c, **changes) for c in (False, True))
    found = diagnose(capturable)
    assert found.total.steps == 3
    assert_close(found, diagnose(plain), rel=1e-6)


@pytest.fixture
def default_device():
    """A device that new tensors are on, and that has no numbers."""
    yield torch.set_default_device
    torch.set_default_device(None)


def test_a_default_device_does_not_matter(default_device):
    params = make_params()
    optimizer = trained(params)
    found = diagnose(optimizer)
    default_device("meta")
    assert diagnose(optimizer) == found


def test_a_schedule_of_weight_decay_takes_no_memory():
    """The smallest Hessian for each is remembered, for some of them."""
    for step in range(1000):
        _kernels.hess_floor(0.1 + step * 1e-4, torch.float32)
    assert _kernels.hess_floor.cache_info().currsize < 100


def test_a_total_does_not_depend_on_the_groups():
    params = make_params()
    together = trained(params)
    apart = IVON([{"params": params[:1]}, {"params": params[1:]}], **SETTINGS)
    apart.state = together.state
    one, two = diagnose(together), diagnose(apart)
    assert one.total == two.total == one.groups[0]
    assert [f.entries for f in two.groups] == [12, 13]
    assert len(two.tensors) == 3


def test_groups_are_judged_by_their_own_settings():
    params = make_params()
    groups = [
        {"params": params[:1], "ess": 1e4, "hess_init": 0.5, "weight_decay": 0.0},
        {"params": params[1:], "ess": 1e2, "hess_init": 2.0, "lr": 7.0, "weight_decay": 0.0},
    ]
    d = diagnose(IVON(groups, lr=1.0, ess=1.0))
    assert [f.noise_rms for f in d.groups] == pytest.approx([5_000**-0.5, 200**-0.5])
    assert [f.effective_lr for f in d.groups] == pytest.approx([1.0, 7.0])
    assert d.total.noise_rms == pytest.approx(math.sqrt((12 / 5_000 + 13 / 200) / 25))
    assert d.total.effective_lr == pytest.approx(7.0)


def test_frozen_parameters_do_not_count():
    params = make_params()
    alone = diagnose(trained(params[1:]))
    params = make_params()
    params[0].requires_grad_(False)
    assert diagnose(trained(params)).total == alone.total


def test_nothing_to_train_is_no_error():
    for params in ([nn.Parameter(torch.ones(2), requires_grad=False)], [nn.Parameter(torch.ones(0, 3))]):
        d = diagnose(IVON(params, **SETTINGS), total_steps=10)
        assert d.total.entries == 0
        assert math.isnan(d.total.noise_to_weight) and math.isnan(d.total.clipped)
        assert "trainable entries" in str(d)
        assert d.warnings == []


def test_the_mean_of_16_bit_parameters_has_their_residual():
    optimizer = with_state([0.5, 0.5], mean=[1.0, 1.0], dtype=torch.bfloat16)
    (p,) = optimizer.param_groups[0]["params"]
    optimizer.state[p]["residual"] = torch.tensor([2.0**-9, 0.0])
    # In bfloat16 1 + 2^-9 is 1.
    assert diagnose(optimizer).total.weight_rms == pytest.approx(
        math.sqrt(((1 + 2**-9) ** 2 + 1) / 2), rel=1e-7
    )


def test_noise_that_16_bit_parameters_cannot_show():
    """Numbers of bfloat16 between 1 and 2 are 2^-7 apart; sigma is 0.1 / sqrt(h + 0.5)."""
    hess = [0.5, 1e6, 0.5, 1e6]
    found = {
        dtype: diagnose(with_state(hess, mean=[1.0, 1.0, 100.0, 0.0], dtype=dtype)).total.unresolved
        for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64)
    }
    assert list(found.values()) == [0.5, 0.25, 0.0, 0.0]  # the second and third, the second


def test_pieces_and_samples_of_large_parameters(monkeypatch):
    params = make_params(shapes=((60, 50), (7,)))
    optimizer = trained(params)
    whole = diagnose(optimizer)
    monkeypatch.setattr(_findings, "_CHUNK", 64)
    assert_close(diagnose(optimizer), whole, rel=1e-12)
    monkeypatch.setattr(diagnostics, "_SAMPLED", 1_500)
    sampled = diagnose(optimizer)
    assert sampled.total.noise_rms == pytest.approx(whole.total.noise_rms)
    change = torch.cat([optimizer.state[p]["hess"].reshape(-1) for p in params]) - 0.5
    for name, share in (("hess_low", 0.05), ("hess_median", 0.5), ("hess_high", 0.95)):
        value = getattr(sampled.total, name)
        assert value != getattr(whole.total, name)
        # A share has a standard error of at most 1.3 % in a sample of 1,500.
        assert (change <= value).double().mean().item() == pytest.approx(share, abs=0.04)


def assert_close(left, right, rel):
    left, right = left.as_dict(), right.as_dict()
    assert left.keys() == right.keys()
    assert list(left.values()) == pytest.approx(list(right.values()), rel=rel)


def test_layout_in_memory_does_not_matter():
    (p,) = params = make_params(shapes=((2, 3, 4, 5),))
    optimizer = trained(params)
    found = diagnose(optimizer)
    p.data = p.data.contiguous(memory_format=torch.channels_last)
    state = optimizer.state[p]
    state["momentum"] = state["momentum"].contiguous(memory_format=torch.channels_last)
    assert_close(diagnose(optimizer), found, rel=1e-12)


def test_a_model_converted_since_the_last_step():
    model = nn.Linear(3, 4).double()
    optimizer = trained(model.parameters())
    whole = diagnose(optimizer)
    model.float()
    assert_close(diagnose(optimizer), whole, rel=1e-5)  # rounding of float32


@pytest.fixture
def one_process():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_sharded_parameters():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (1,))
    whole = diagnose(IVON(make_params(), **SETTINGS))
    sharded = [nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(0)])) for p in make_params()]
    optimizer = IVON(sharded, **SETTINGS)
    assert diagnose(optimizer) == whole
    with optimizer.sampled_params():
        pass
    assert diagnose(optimizer) == whole


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_several_devices():
    def look(device):
        params = [p.data.to(device if i else "cpu") for i, p in enumerate(make_params())]
        return diagnose(IVON([nn.Parameter(p) for p in params], **SETTINGS))

    assert_close(look("cuda"), look("cpu"), rel=1e-9)


def test_tensors_have_the_names_of_the_model_or_of_the_optimizer():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1, bias=False))
    names = ["0.weight", "0.bias", "1.weight"]
    plain = IVON(model.parameters(), **SETTINGS)
    assert list(diagnose(plain, model).tensors) == names
    assert list(diagnose(plain).tensors) == [f"group 0, parameter {j}" for j in range(3)]
    model[0].bias.requires_grad_(False)
    named = IVON(model.named_parameters(), **SETTINGS)
    assert list(diagnose(named).tensors) == ["0.weight", "1.weight"]
    model[1].weight.data.zero_()
    ratios = diagnose(named).tensors
    assert ratios["1.weight"] == math.inf
    weights = model[0].weight.detach().square().mean().sqrt().item()
    assert ratios["0.weight"] == pytest.approx(0.1 / weights, rel=1e-6)  # sigma = 1 / sqrt(100 (0.5 + 0.5))


def test_optimizers_in_wrappers_are_found_and_others_refused():
    optimizer = trained(make_params())
    assert diagnose(SimpleNamespace(optimizer=optimizer)) == diagnose(optimizer)
    with pytest.raises(TypeError, match=r"ivon\.IVON"):
        diagnose(torch.optim.SGD(make_params(), lr=0.1))


def test_within_a_draw_there_is_no_mean_to_look_at():
    optimizer = trained(make_params())
    with optimizer.sampled_params(), pytest.raises(RuntimeError, match="leave that context first"):
        diagnose(optimizer)


def test_numbers_for_a_logger_and_for_the_eye():
    params = make_params()
    d = diagnose(trained([{"params": params[:1]}, {"params": params[1:], "ess": 1e-3}]))
    numbers = d.as_dict()
    assert numbers["total/entries"] == 25.0 and numbers["group1/steps"] == 3.0
    assert all(type(value) is float for value in numbers.values())
    assert len(numbers) == 3 * len(vars(d.total))
    text = str(d)
    assert "group 1" in text and "group 1, parameter 0: noise / weights" in text
    assert d.warnings and all(f"WARNING: {warning}" in text for warning in d.warnings)
    assert str(diagnose(with_state([0.6]))).endswith("no warnings")


# What is healthy, a change to each side of a limit, and the words of the warning.
LIMITS = [
    ("hardly moved", {"steps": 5, "beta2": 0.98}, {"steps": 6, "beta2": 0.98}),  # 0.96, 0.89 of h0 left
    ("has hardly moved", {"hess": 0.59, "beta2": 0.999}, {"hess": 0.61, "beta2": 0.999}),
    ("has hardly moved", {"hess": 0.41, "beta2": 0.999}, {"hess": 0.39, "beta2": 0.999}),
    ("may drown them", {"mean": 0.32}, {"mean": 0.35}),  # sigma = 0.1
    ("may drown them", {"mean": 0.2}, {"mean": 0.2, "hess": 0.65}),  # learned, not set
    ("the data say little", {"hess": 0.65, "mean": 0.09}, {"hess": 0.65, "mean": 0.1}),
    ("very noisy", {"mean": 1100.0}, {"mean": 900.0}),
    ("infinite or NaN", {"hess": math.inf}, {}),
    ("infinite or NaN", {"hess": math.nan}, {}),
    ("infinite or NaN", {"mean": math.inf}, {}),
    ("h < 0", {"hess": [-0.1, -0.1, -0.1, 0.6, 0.6, 0.6, 0.6]}, {"hess": [-0.1, 0.6, 0.6, 0.6]}),
    ("next to 0 and so a huge sigma", {"hess": [-0.5 + 1e-16, *[0.5] * 500], "mean": 1e7}, {}),
    ("times what it was", {"hess": 31.0}, {"hess": 29.0}),
    ("times what it was", {"hess": -0.469, "mean": 10.0}, {"hess": -0.465, "mean": 10.0}),
    ("clipped", {"momentum": 1.01, "mean": 1.0}, {"momentum": 0.49, "mean": 1.0}),
    ("clipped", {"momentum": [0.6] * 200}, {"momentum": [0.6] * 197 + [0.4] * 3}),
    ("below the rounding", {"dtype": torch.bfloat16, "mean": 30.0}, {"dtype": torch.bfloat16, "mean": 20.0}),
]


def as_state(change):
    n = max([len(v) for v in change.values() if isinstance(v, list)], default=1)
    column = {"hess": 0.5, "mean": 1.0, "momentum": 0.0}
    column.update({name: change[name] for name in column if name in change})
    column = {name: value if isinstance(value, list) else [value] * n for name, value in column.items()}
    rest = {name: value for name, value in change.items() if name not in column}
    return with_state(**{"clip_radius": 1.0, "beta1": 0.0, **rest, **column})


@pytest.mark.parametrize(
    ("words", "ill", "well"), LIMITS, ids=[f"{i}: {words}" for i, (words, *_) in enumerate(LIMITS)]
)
def test_there_is_a_warning_beyond_the_limit_and_none_before(words, ill, well):
    assert [words in warning for warning in diagnose(as_state(ill)).warnings].count(True) == 1
    assert not any(words in warning for warning in diagnose(as_state(well)).warnings)


def test_warnings_name_their_group():
    well, ill = make_params(shapes=((4,), (4,)))
    optimizer = IVON([{"params": [well]}, {"params": [ill], "ess": 1.0}], **{**SETTINGS, "ess": 1e4})
    (warning,) = diagnose(optimizer).warnings
    assert warning.startswith("group 1: the noise is")
    assert "ess * hess_init = 0.5" in warning


def test_beta2_is_judged_by_the_planned_number_of_steps():
    optimizer = IVON(make_params(), **{**SETTINGS, "beta2": 0.99999, "ess": 1e4})
    assert diagnose(optimizer).warnings == []  # nothing done, nothing planned
    assert diagnose(optimizer, total_steps=11_000).warnings == []  # 10.4 % will be forgotten
    (warning,) = diagnose(optimizer, total_steps=10_000).warnings
    assert "will hardly move" in warning
    assert "100,000 steps" in warning  # the horizon
    assert "90% of hess_init" in warning
    assert "a beta2 of about 0.9999" in warning
    step_of(optimizer)
    assert diagnose(optimizer, total_steps=11_000).warnings == []  # early in a plan that is long enough
    (warning,) = diagnose(optimizer).warnings
    assert "has hardly moved" in warning and "after 1 steps" in warning


def test_no_smaller_beta2_is_recommended_than_the_paper_has():
    optimizer = IVON(make_params(), **{**SETTINGS, "beta2": 0.999, "ess": 1e4})
    (warning,) = diagnose(optimizer, total_steps=50).warnings
    assert "train longer" in warning and "a beta2 of" not in warning


def test_weights_of_zero_are_not_compared_with_noise():
    assert diagnose(as_state({"mean": 0.0})).warnings == []


def test_after_divergence_nothing_else_is_said():
    optimizer = as_state({"hess": [math.nan, -0.5, 1e9], "mean": 1e-9})
    assert len(diagnose(optimizer).warnings) == 1


@pytest.mark.parametrize("steps", [0, -5])
def test_total_steps_is_positive(steps):
    with pytest.raises(ValueError, match=f"total_steps must be >= 1, got {steps}"):
        diagnose(IVON(make_params(), **SETTINGS), total_steps=steps)
