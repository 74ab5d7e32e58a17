"""The regression with a gap: its data, its exact posterior where that is known, and what the methods say."""

import math

import pytest
import torch
from torch import nn

from baselines.method import Loss
from baselines.settings import IVON, AdamW
from experiments.engine.distributed import single
from experiments.engine.execute import execute
from experiments.engine.record import Store
from experiments.engine.spec import RegressionSpec, parse_spec
from experiments.engine.spec.toy import HMC
from experiments.engine.watch import Stopped, Watch
from experiments.errors import UserError
from experiments.toy.fig3c import RUNS
from experiments.toy.hmc import sample
from experiments.toy.regression import curve, energy, examples, gaussian_nll, regress

SMALL = {"hidden": 8, "examples": 20}
ADAMW = RegressionSpec(method=AdamW(lr=0.01), steps=300, **SMALL)
SHORT_IVON = RegressionSpec(
    method=IVON(lr=0.05, hess_init=10.0, beta2=0.999, weight_decay=1 / 20), steps=300, draws=20, **SMALL
)
SHORT_HMC = RegressionSpec(method=HMC(chains=2, warmup=20, leapfrogs=10), steps=20, draws=20, **SMALL)
SHORT = pytest.mark.parametrize("spec", [ADAMW, SHORT_IVON, SHORT_HMC], ids=lambda spec: spec.method.name)


def result(spec: RegressionSpec) -> dict:
    found = regress(spec, Watch())
    del found["seconds"]
    return found


def test_no_example_lies_in_the_gap_and_both_sides_have_some():
    inputs, targets = examples(RegressionSpec(method=AdamW(lr=0.1), steps=1, examples=500, noise=0.3))
    low, high = RUNS[0].gap
    assert not ((inputs > low) & (inputs < high)).any()
    assert inputs.min() < -1.9 and 1.9 < inputs.max() < 2
    assert abs(float((inputs < low).double().mean()) - (low + 2) / (4 - high + low)) < 0.1
    assert float((targets - torch.sin(2 * inputs)).std()) == pytest.approx(0.3, rel=0.1)


def test_the_gradient_by_hand_is_that_of_autograd():
    inputs, targets = examples(ADAMW)
    weights = torch.randn(3, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value, slope = energy(weights, inputs, targets, 0.2)
    weights.requires_grad_()
    nll = [gaussian_nll(curve(one, inputs), targets, 0.2) * len(inputs) for one in weights]
    constant = len(inputs) * math.log(0.2 * math.sqrt(2 * math.pi))
    expected = torch.stack(nll) - constant + weights.square().sum(1) / 2
    assert torch.allclose(value, expected)
    assert torch.allclose(slope, torch.autograd.grad(expected.sum(), weights)[0])


def test_with_fixed_hidden_units_the_sampler_finds_the_closed_form():
    """The weights of the last layer alone have a Gaussian posterior, and so has the function."""
    spec = RegressionSpec(method=AdamW(lr=0.1), steps=1, hidden=5, examples=30, noise=0.3)
    inputs, targets = examples(spec)
    noise = torch.Generator().manual_seed(0)
    fixed = torch.randn(10, generator=noise, dtype=torch.float64)
    grid = torch.linspace(-3, 3, 25, dtype=torch.float64)

    def of_heights(heights: torch.Tensor):
        weights = torch.cat([fixed.expand(len(heights), -1), heights], dim=1)
        value, slope = energy(weights, inputs, targets, spec.noise)
        return value, slope[:, 10:]

    one_each = torch.cat([fixed.expand(5, -1), torch.eye(5, dtype=torch.float64)], dim=1)
    features, on_grid = curve(one_each, inputs).T, curve(one_each, grid).T
    precision = features.T @ features / spec.noise**2 + torch.eye(5, dtype=torch.float64)
    mean = on_grid @ torch.linalg.solve(precision, features.T @ targets) / spec.noise**2
    std = (on_grid @ precision.inverse() * on_grid).sum(1).sqrt()
    start = torch.randn(8, 5, generator=noise, dtype=torch.float64)
    chains = sample(of_heights, start, warmup=100, samples=400, leapfrogs=12, step_size=0.1, generator=noise)
    functions = chains.draws.flatten(0, 1) @ on_grid.T
    assert ((functions.mean(0) - mean).abs() < 0.1 * std).all()  # their error is some hundredths
    assert torch.allclose(functions.std(0), std, rtol=0.1)


def test_ivon_finds_the_variance_of_a_quadratic():
    """sigma^2 = 1 / (ess (h + weight_decay)) where the loss is h x^2 / 2."""
    curvature = torch.tensor([0.5, 8.0], dtype=torch.float64)
    network = nn.ParameterDict({"weights": nn.Parameter(torch.ones(2, dtype=torch.float64))})
    settings = RUNS[1].method.model_copy(update={"hess_init": 1.0, "beta2": 0.99, "mc_samples": 4})
    method = settings.build(network, train_size=60, seed=0)
    loss = Loss(
        forward=lambda _: network["weights"],
        inputs=torch.empty(0),
        targets=curvature,
        criterion=lambda weights, curvature: (curvature * weights.square()).sum() / 2,
    )
    precisions = []
    for step in range(500):
        method.step(loss)
        if step >= 200:
            hess = method.optimizer.state[network["weights"]]["hess"]
            precisions.append(60 * (hess.reshape(-1) + settings.weight_decay))
    expected = 60 * (curvature + 1 / 60)
    # The mean over 300 steps of estimates from 4 draws each: some hundredths of it.
    assert torch.allclose(torch.stack(precisions).mean(0).to(expected), expected, rtol=0.15)


def test_all_have_the_same_data_network_and_prior():
    for spec in RUNS:
        same = {"method", "steps", "draws"}
        assert spec.model_dump(exclude=same) == RUNS[0].model_dump(exclude=same)
    ivon = RUNS[1].method
    assert ivon.ess is None  # the number of examples
    assert RUNS[1].examples * ivon.weight_decay == pytest.approx(1)  # precision of HMC's prior


@SHORT
def test_a_run_is_a_function_of_its_specification(spec):
    first = result(spec)
    assert first == result(spec)
    other = result(spec.model_copy(update={"seed": 1}))
    assert other["mean"] != first["mean"]
    assert other["targets"] == first["targets"]
    assert result(spec.model_copy(update={"data_seed": 1}))["targets"] != first["targets"]


@SHORT
def test_the_record_holds_the_curves(spec, tmp_path):
    store = Store(tmp_path)
    assert parse_spec(spec.model_dump(mode="json")) == spec
    assert execute(spec, store, single(torch.device("cpu")), Watch()).end == "done"
    record = store.done(spec)
    assert record and parse_spec(record["spec"]) == spec
    found = record["result"]
    assert len(found["grid"]) == len(found["mean"]) == len(found["truth"]) == 121
    assert len(found["inputs"]) == len(found["targets"]) == spec.examples
    if spec is ADAMW:
        assert found["std"] is None
    else:
        assert len(found["std"]) == 121 and min(found["std"]) > 0
    assert ("rhat" in found) == (spec is SHORT_HMC)
    assert ("elbo" in found) == (spec is SHORT_IVON)


def test_adamw_learns_the_function():
    found = result(ADAMW.model_copy(update={"steps": 800, "examples": 60, "hidden": 20}))
    errors = [
        (mean - truth) ** 2
        for x, mean, truth in zip(found["grid"], found["mean"], found["truth"], strict=True)
        if -2 < x < -0.6 or 0.9 < x < 2
    ]
    assert math.sqrt(sum(errors) / len(errors)) < 0.15  # the noise of an example is 0.1


@SHORT
def test_a_run_heeds_a_stop(spec):
    with pytest.raises(Stopped):
        regress(spec, Watch(stop=lambda: True))


def test_impossible_runs_are_refused_in_one_line():
    data = SHORT_HMC.model_dump(mode="json")
    for changes, words in (
        ({"gap": [0.9, -0.6]}, "gap .* increasing"),
        ({"draws": 0}, "draws 0: of HMC 2 at least"),
        ({"draws": 41}, "draws 41: of HMC"),
        ({"noise": 0.0}, "noise"),
        ({"hiden": 3}, "hiden: no such field"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            parse_spec({**data, **changes})
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no training"):
        ADAMW.with_trainings(lambda training: training)
