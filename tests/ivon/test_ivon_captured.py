"""Steps for CUDA graphs, on a tape in their place: a replay must draw anew, count, and equal eager steps."""

import copy
import math

import pytest
import torch
from torch import nn

from ivon import IVON, _captured, _shards, _stretches
from tests.ivon.tape import Tape

STEPS = 6
SETTINGS = {"lr": 0.1, "ess": 100.0, "hess_init": 0.5, "beta2": 0.9}


def model(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2, bias=False)).to(dtype)


def inputs(dtype=torch.float32):
    return torch.linspace(-1, 1, 15).view(3, 5).to(dtype)


def step(network, optimizer, draws=1):
    for _ in range(draws):
        with optimizer.sampled_params(train=True):
            (network(inputs(network[0].weight.dtype)) - 1).square().mean().backward()
    optimizer.step()


def posterior(network, optimizer):
    names = ("hess", "momentum", "residual")
    states = [optimizer.state[p] for p in network.parameters()]
    values = [state[name] for state in states for name in names if name in state]
    return [p.detach() for p in network.parameters()] + values


def assert_close(left, right, **tolerance):
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def new(dtype=torch.float32, capturable=True, **options):
    network = model(dtype)
    optimizer = IVON(network.parameters(), **{**SETTINGS, **options}, capturable=capturable)
    optimizer.seed(1)
    return network, optimizer


@pytest.fixture
def capturing(monkeypatch):
    """Call it to tell the optimizer whether a capture is going on."""

    def tell(answer=True):
        monkeypatch.setattr(_captured, "is_capturing", lambda: answer)

    return tell


@pytest.fixture(params=["stretches", "lists"])
def operations(request, monkeypatch):
    if request.param == "lists":
        monkeypatch.setattr(_stretches, "_on_cpu", lambda tensor: False)
        monkeypatch.setattr(_stretches, "DEVICE_STRETCH", 7)


OPTIONS = [
    {},
    {"clip_radius": 0.02},
    {"debias": False},
    {"rescale_lr": False, "beta1": 0.999},
    {"beta1": 0.0},
    {"hess_approx": "gradsq"},
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.usefixtures("operations")
def test_outside_of_graphs_nothing_changes(dtype, options):
    plain, capturable = new(dtype, capturable=False, **options), new(dtype, **options)
    for k in range(STEPS):
        for run in (plain, capturable):
            step(*run, draws=1 + k % 2)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    if dtype == torch.bfloat16:  # a mean that is rounded the other way is another draw
        assert_close(posterior(*capturable), posterior(*plain), rtol=0.02, atol=0.02)
    else:
        assert_close(posterior(*capturable), posterior(*plain), rtol=tolerance, atol=tolerance)


def replayed(capturing, draws=1, dtype=torch.float32, **options):
    """A step outside, one on the tape, and the others replayed."""
    network, optimizer = new(dtype, **options)
    step(network, optimizer, draws)
    torch.manual_seed(2)
    capturing()
    with Tape() as tape:
        step(network, optimizer, draws)
    capturing(False)
    for _ in range(STEPS - 2):
        tape.replay()
    return network, optimizer


def whole_from_the_global_generator(noise, parts):
    """The noise of a step outside of graphs, made as that in graphs is."""
    if not noise.made:
        noise.out.normal_()
    noise.made = len(noise.out)


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.usefixtures("operations")
def test_replays_equal_plain_steps_with_the_same_noise(capturing, monkeypatch, options, draws):
    result = posterior(*replayed(capturing, draws, **options))
    network, optimizer = new(capturable=False, **options)
    step(network, optimizer, draws)
    torch.manual_seed(2)
    monkeypatch.setattr(_shards.Noise, "is_of_whole_parameters", lambda self: False)
    monkeypatch.setattr(_shards.Noise, "reach", whole_from_the_global_generator)
    for _ in range(STEPS - 1):
        step(network, optimizer, draws)
    assert_close(result, posterior(network, optimizer), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("operations")
def test_replays_equal_the_same_steps_made_one_by_one(capturing, dtype):
    result = posterior(*replayed(capturing, dtype=dtype))
    network, optimizer = new(dtype)
    step(network, optimizer)
    torch.manual_seed(2)
    capturing()
    for _ in range(STEPS - 1):
        step(network, optimizer)
    assert_close(result, posterior(network, optimizer), rtol=0, atol=0)


def test_16_bit_weights_see_the_noise_that_they_were_drawn_with(capturing):
    """The Hessian comes from the noise before rounding, which a graph cannot make a second time."""
    capturing()
    out = torch.empty(1000)
    noise = _captured.Noise(out)
    later = noise.again()
    noise.reach([out])
    first = out.clone()
    out.zero_()
    for _ in range(2):
        later.reach([out[:500]])
        assert out.equal(first)


def test_each_replay_is_another_draw(capturing):
    network, optimizer = new()
    step(network, optimizer)
    capturing()
    seen = torch.zeros_like(network[0].weight)
    with Tape() as tape, optimizer.sampled_params(), torch.no_grad():
        seen.copy_(network[0].weight)
    draws = [seen.clone()]
    for _ in range(4):
        tape.replay()
        draws.append(seen.clone())
    assert len(torch.stack(draws).flatten(1).unique(dim=0)) == 5
    spread = (torch.stack(draws) - network[0].weight.detach()).std().item()
    assert spread == pytest.approx((100 * 0.5) ** -0.5, rel=0.3)


def test_learning_rate_that_changes_between_replays(capturing):
    network, optimizer = new(lr=torch.tensor(0.1))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    step(network, optimizer)
    capturing()
    with Tape() as tape:
        step(network, optimizer)
    capturing(False)
    for _ in range(3):
        schedule.step()
    assert optimizer.param_groups[0]["lr"].item() == pytest.approx(0.0125)
    optimizer.param_groups[0]["lr"].zero_()
    means = [p.detach().clone() for p in network.parameters()]
    hess = optimizer.state[network[0].weight]["hess"]
    before = hess.clone()
    tape.replay()
    assert_close(list(network.parameters()), means, rtol=0, atol=0)
    assert (hess != before).all()


@pytest.mark.parametrize("capturable", [True, False])
def test_checkpoint_after_replays(capturing, capturable):
    """The number of steps is in it; any optimizer goes on from it."""
    network, optimizer = replayed(capturing)
    saved = optimizer.state_dict()
    assert {state["step"] for state in saved["state"].values()} == {STEPS}
    other, resumed = new(capturable=capturable)
    other.load_state_dict(network.state_dict())
    resumed.load_state_dict(saved)
    for run in ((network, optimizer), (other, resumed)):
        step(*run)
    assert_close(posterior(other, resumed), posterior(network, optimizer), rtol=1e-5, atol=1e-6)
    assert {state["step"] for state in resumed.state_dict()["state"].values()} == {STEPS + 1}


def test_what_a_graph_would_get_wrong_is_refused(capturing, monkeypatch):
    capturing()
    network, optimizer = new(capturable=False)
    with pytest.raises(RuntimeError, match="capturable=True"):
        step(network, optimizer)
    network, optimizer = new()
    with pytest.raises(RuntimeError, match="make a step of all parameters before the capture"):
        step(network, optimizer)
    capturing(False)
    step(network, optimizer)
    capturing()
    with (
        pytest.raises(RuntimeError, match="generator"),
        optimizer.sampled_params(generator=torch.Generator()),
    ):
        pass
    optimizer.found_inf = torch.tensor(0.0)  # as GradScaler does
    with pytest.raises(RuntimeError, match="bfloat16"):
        step(network, optimizer)
    del optimizer.found_inf
    optimizer.discard_draws()
    optimizer.param_groups[0]["weight_decay"] *= 0.5
    with pytest.raises(RuntimeError, match="weight_decay was lowered"):
        step(network, optimizer)
    optimizer.param_groups[0]["weight_decay"] *= 2
    monkeypatch.setattr(_captured, "in_group", lambda: True)
    with pytest.raises(RuntimeError, match="process group"):
        step(network, optimizer)


@pytest.mark.parametrize("first", [True, False])
def test_a_draw_and_its_step_are_in_one_graph(capturing, first):
    network, optimizer = new()
    step(network, optimizer)
    capturing(first)
    with optimizer.sampled_params(train=True):
        network(inputs()).sum().backward()
    capturing(not first)
    with pytest.raises(RuntimeError, match="same CUDA graph"):
        optimizer.step()
    with pytest.raises(RuntimeError, match="same CUDA graph"), optimizer.sampled_params(train=True):
        pass
    optimizer.discard_draws()
    step(network, optimizer)


def test_a_beta1_that_changes_around_replays(capturing):
    """A replay goes on with that of its capture; what the momentum weighs follows, also into a checkpoint."""
    network, optimizer = new(beta1=0.9)
    group, used = optimizer.param_groups[0], [0.9, 0.9]
    step(network, optimizer)
    capturing()
    with Tape() as tape:
        step(network, optimizer)
    for beta1 in (0.5, 0.7):
        capturing(False)
        group["betas"] = (beta1, group["beta2"])
        step(network, optimizer)
        tape.replay()
        used += [beta1, 0.9]
        saved = optimizer.state_dict()
        for state in saved["state"].values():
            assert state["momentum_weight"] == pytest.approx(1 - math.prod(used), rel=1e-6)
    for capturable in (False, True):
        _, other = new(capturable=capturable)
        other.load_state_dict(saved)
        weights = [
            {s["momentum_weight"] for s in states.values()} for states in (other.state, saved["state"])
        ]
        assert weights[0] == weights[1]


def test_a_graph_survives_a_load(capturing):
    """What it reads and writes stays where it is, and a learning rate may be a plain number."""
    network, optimizer = new(lr=torch.tensor(0.1))
    step(network, optimizer)
    saved, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(network.state_dict())
    capturing()
    with Tape() as tape:
        step(network, optimizer)
    capturing(False)
    tape.replay()
    saved["param_groups"][0]["lr"] = 0.05
    optimizer.load_state_dict(saved)
    network.load_state_dict(weights)
    torch.manual_seed(2)
    tape.replay()
    result = posterior(network, optimizer)
    assert {state["step"] for state in optimizer.state_dict()["state"].values()} == {2}

    network, optimizer = new(lr=torch.tensor(0.05))
    step(network, optimizer)
    optimizer.load_state_dict(saved)
    network.load_state_dict(weights)
    torch.manual_seed(2)
    capturing()
    step(network, optimizer)
    assert_close(result, posterior(network, optimizer), rtol=0, atol=0)


def test_first_draw_in_inference_mode():
    plain, capturable = new(capturable=False), new()
    for network, optimizer in (plain, capturable):
        with torch.inference_mode(), optimizer.sampled_params():
            network(inputs())
        step(network, optimizer)
    assert_close(posterior(*capturable), posterior(*plain), rtol=1e-5, atol=1e-6)


def test_load_in_the_middle_of_a_step():
    network, optimizer = new()
    with optimizer.sampled_params(train=True):
        network(inputs()).square().mean().backward()
    other, resumed = new()
    resumed.load_state_dict(optimizer.state_dict())
    for run in (optimizer, resumed):
        run.step()
    assert_close(posterior(other, resumed), posterior(network, optimizer), rtol=1e-5, atol=1e-6)


def test_state_that_is_reset_starts_anew():
    network, optimizer = new()
    step(network, optimizer)
    optimizer.state.clear()
    step(network, optimizer)
    assert {state["step"] for state in optimizer.state_dict()["state"].values()} == {1}
    assert all("count" not in state for state in optimizer.state_dict()["state"].values())
    assert copy.deepcopy(optimizer).capturable
