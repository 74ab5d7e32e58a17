"""Every method with 16-bit weights: what it learns beside them is as precise as with others, and stays so."""

import io
from collections import OrderedDict
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from baselines import METHODS
from baselines.adahessian import AdaHessian
from baselines.bbb import MeanField
from baselines.method import Loss, Method
from baselines.precision import statistics_dtype
from baselines.vogn import VOGN

SETTINGS: dict[str, dict[str, Any]] = {
    "adahessian": {"beta2": 0.99},
    "swag": {"collections": 250},
    "ivon": {"beta2": 0.99, "weight_decay": 0.1},
    "vogn": {"beta2": 0.01},
    "ogn": {"beta2": 0.01},
}
STEPS, INPUTS, OUTPUTS = 250, 8, 4
REDUCED = [torch.bfloat16, torch.float16]


# In float16 its eps is 0, and it refuses to go on with weights that were converted.
TORCHS_ADAMW = ("adamw", "bbb")


@pytest.fixture(params=METHODS)
def name(request) -> str:
    return request.param


@pytest.fixture(params=REDUCED, ids=str)
def dtype(request, name) -> torch.dtype:
    if request.param == torch.float16 and name in TORCHS_ADAMW:
        pytest.skip("torch's AdamW is not for weights in float16")
    return request.param


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """A Hessian of ones on the diagonal, over the number of examples."""
    return 0.5 * (outputs - targets).square().sum(dim=1).mean()


class Run:
    """A method on weights that wander as the test wants, so that only its statistics tell of the dtype."""

    def __init__(self, name: str, dtype: torch.dtype, steps: int = STEPS, seed: int = 0) -> None:
        self.model = nn.Sequential(nn.Linear(INPUTS, OUTPUTS, bias=False), nn.Identity()).to(dtype)
        self.model.dropout_sites = lambda: ["1"]
        settings = METHODS[name](lr=0.002, **SETTINGS.get(name, {}))
        self.method: Method = settings.build(self.model, train_size=100, seed=seed)
        self.method.begin_epoch(0, 1, steps)
        self.number = 0

    def take(self, steps: int, *, wander: bool = False) -> None:
        # Each example is seen by weights of its own: the Hessian is diagonal, every draw of it is exact.
        (weight,) = self.model.parameters()
        inputs = torch.eye(INPUTS, dtype=weight.dtype)
        for _ in range(steps):
            noise = torch.Generator().manual_seed(self.number)
            if wander:
                with torch.no_grad():
                    around = 1 + 0.05 * torch.randn(weight.shape, generator=noise)
                    weight.copy_(around.bfloat16())
            targets = torch.randn(INPUTS, OUTPUTS, generator=noise).to(weight.dtype) + self.number / STEPS
            self.method.step(Loss(self.model, inputs, targets, criterion=squared_error))
            self.number += 1

    def statistics(self) -> dict[str, Tensor]:
        """The floating-point tensors that the method keeps, but those of torch's own optimizers."""
        state = self.method.state_dict()
        if type(self.method.optimizer).__module__.startswith("torch."):
            state = {key: value for key, value in state.items() if key != "optimizer"}
        return {
            place: value
            for place, value in leaves(state)
            # IVON's residual is what 16-bit weights cannot hold of its mean; it goes when they are converted.
            if value.is_floating_point() and not place.endswith(".residual")
        }


def leaves(state: Any, place: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of a state, by where they are in it."""
    if isinstance(state, Tensor):
        yield place, state
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from leaves(value, f"{place}.{key}")
    elif isinstance(state, list | tuple):
        for key, value in enumerate(state):
            yield from leaves(value, f"{place}.{key}")


def assert_same_bits(one: Any, other: Any) -> None:
    ours, theirs = dict(leaves(one)), dict(leaves(other))
    assert ours.keys() == theirs.keys()
    for place, value in ours.items():
        assert value.dtype == theirs[place].dtype, place
        assert torch.equal(value, theirs[place]), place


@cache
def wandered(name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    run = Run(name, dtype)
    run.take(STEPS, wander=True)
    return run.statistics()


def test_statistics_are_those_of_64_bits(name, dtype):
    found, expected = wandered(name, dtype), wandered(name, torch.float64)
    assert found.keys() == expected.keys()
    assert found or name in ("sgd", "adamw", "mc_dropout"), "only torch's optimizers keep all that there is"
    for place, value in found.items():
        assert value.dtype == torch.float32 or place.endswith(".step"), place
        # Weights and gradients have rounding errors of 1/256, and the noise of draws of 32 bits is another.
        # Kept in 16 bits, a mean of so many iterates is off by more.
        true = expected[place].double()
        error = (value.double() - true).abs().mean() / true.abs().mean()
        assert error < 0.05, (place, error)


def test_saved_and_loaded_have_the_same_bits_and_dtypes(name, dtype):
    run, other = Run(name, dtype), Run(name, dtype, seed=1)
    run.take(7)
    file = io.BytesIO()
    torch.save({"model": run.model.state_dict(), "method": run.method.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other.model.load_state_dict(saved["model"])
    other.method.load_state_dict(saved["method"])
    assert_same_bits(other.method.state_dict(), run.method.state_dict())
    other.number = run.number
    for each in (run, other):
        each.take(5)
    assert_same_bits(other.method.state_dict(), run.method.state_dict())
    assert_same_bits(other.model.state_dict(), run.model.state_dict())


def test_copied_have_the_same_bits_and_dtypes(name, dtype):
    run = Run(name, dtype)
    run.take(7)
    copied = deepcopy(run)
    assert_same_bits(copied.method.state_dict(), run.method.state_dict())
    for each in (run, copied):
        each.take(5)
    assert_same_bits(copied.method.state_dict(), run.method.state_dict())
    assert_same_bits(copied.model.state_dict(), run.model.state_dict())


@pytest.mark.parametrize("before", [torch.float32, torch.bfloat16], ids=str)
def test_statistics_stay_when_the_weights_are_converted(name, before):
    after = torch.bfloat16 if before == torch.float32 else torch.float32
    run = Run(name, before)
    run.take(7)
    kept = {place: value.clone() for place, value in run.statistics().items()}
    run.model.to(after)
    assert_same_bits(run.statistics(), kept)
    if name not in TORCHS_ADAMW:
        run.take(3)
    assert run.statistics().keys() == kept.keys()
    assert all(value.dtype == kept[place].dtype for place, value in run.statistics().items())
    assert all(param.dtype == after and param.isfinite().all() for param in run.model.parameters())
    with run.method.draw(1, torch.Generator().manual_seed(0)):
        assert all(param.dtype == after and param.isfinite().all() for param in run.model.parameters())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_rule(kind):
    assert statistics_dtype(kind) == (torch.float64 if kind == torch.float64 else torch.float32)


def optimizers(param: Tensor) -> list[torch.optim.Optimizer]:
    return [AdaHessian([param], lr=0.1), VOGN([param], lr=0.1, data_size=10)]


def trained(place: int) -> tuple[torch.optim.Optimizer, Tensor]:
    param = torch.full((3,), 0.3, dtype=torch.bfloat16, requires_grad=True)
    optimizer = optimizers(param)[place]
    if isinstance(optimizer, AdaHessian):
        optimizer.backward(param.float().pow(3).sum())
        optimizer.step()
        return optimizer, param

    def closure() -> Tensor:
        param.grad = torch.full_like(param, 0.7)
        param.squared_grad = torch.full((3,), 0.1)
        return torch.zeros(())

    optimizer.step(closure)
    return optimizer, param


@pytest.mark.parametrize("place", [0, 1], ids=["AdaHessian", "VOGN"])
def test_hooks_have_their_say(place):
    """The state that a pre-hook hands on is loaded, and a post-hook finds it and may change it."""
    saved = trained(place)[0].state_dict()
    key = "square" if place == 0 else "curvature"
    optimizer, param = trained(place)
    seen = []

    def doubled(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        changed = {**state["state"][0], key: 2 * state["state"][0][key]}
        return {**state, "state": {0: changed}}

    def halved(loaded: torch.optim.Optimizer) -> None:
        seen.append(loaded.state[param][key].clone())
        loaded.state[param][key].mul_(0.5)

    handles = [
        optimizer.register_load_state_dict_pre_hook(doubled),
        optimizer.register_load_state_dict_post_hook(halved),
    ]
    optimizer.load_state_dict(saved)
    assert torch.equal(seen[0], 2 * saved["state"][0][key])
    assert torch.equal(optimizer.state[param][key], saved["state"][0][key])
    assert optimizer.state[param][key].dtype == torch.float32
    for handle in handles:
        handle.remove()
    assert not optimizer._optimizer_load_state_dict_pre_hooks  # nothing of ours stays
    assert optimizer._optimizer_load_state_dict_post_hooks == OrderedDict()


@pytest.mark.parametrize("place", [0, 1], ids=["AdaHessian", "VOGN"])
def test_statistics_that_were_saved_in_16_bits_go_on_in_32(place):
    optimizer, param = trained(place)
    saved = deepcopy(optimizer.state_dict())
    state = saved["state"][0]
    state |= {name: value.bfloat16() for name, value in state.items() if name != "step"}
    optimizer.load_state_dict(saved)
    for name, value in state.items():
        if name != "step":
            assert optimizer.state[param][name].dtype == torch.float32
            assert torch.equal(optimizer.state[param][name], value.float())


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("dtype", REDUCED, ids=str)
def test_kl_of_16_bit_means_is_that_of_64_bits(dtype, reduction):
    """Of means that both hold: a hundred of the parts by which the KL counts are no number of 16 bits."""
    means = torch.linspace(-1, 1, 300).to(dtype)
    kls = [
        MeanField(
            [means.to(kind).requires_grad_()], prior_precision=3.0, std_init=0.007, kl_reduction=reduction
        ).kl()
        for kind in (dtype, torch.float64)
    ]
    torch.testing.assert_close(kls[0].double(), kls[1], rtol=1e-5, atol=0)


def test_squares_of_16_bit_gradients_are_not_lost():
    """The square of 1e-4 is zero in float16; SG, ess times less than gradsq, lives on such squares."""
    hess = []
    for dtype in (torch.float16, torch.float32):
        model = nn.Linear(3, 1, bias=False).to(dtype)
        method = METHODS["ivon"](lr=0.0001, hess_approx="sg", hess_init=1e-9, beta2=0.5, weight_decay=1.0)
        method = method.build(model, train_size=100, seed=0)
        inputs, targets = torch.ones(4, 3, dtype=dtype), torch.zeros(4, 1, dtype=dtype)
        loss = Loss(model, inputs, targets, criterion=lambda o, t: 1e-4 * (o - t).mean())
        method.step(loss)
        hess.append(next(value for place, value in leaves(method.state_dict()) if place.endswith(".hess")))
    torch.testing.assert_close(*hess, rtol=0.02, atol=0)
    assert (hess[1] > 4e-9).all()


def test_bbbs_state_of_another_network_is_refused_and_changes_nothing():
    run = Run("bbb", torch.bfloat16)
    before = deepcopy(run.method.state_dict())
    state = {**run.method.state_dict(), "rho": torch.zeros(5)}
    with pytest.raises(ValueError, match="BBB: the state is of 5 weights, the model has 32"):
        run.method.load_state_dict(state)
    assert_same_bits(run.method.state_dict(), before)
