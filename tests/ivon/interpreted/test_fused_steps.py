"""Draws and steps by the fused kernels: the noise is normal, and the numbers are those of other paths."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from ivon import IVON, _fused, _sampling

SHAPES = [(130, 9), (5,), (), (0, 3), (4, 3, 3, 3), (1024,)]
SETTINGS = {"lr": 0.1, "ess": 100.0, "hess_init": 0.5, "beta2": 0.9}
EXACT = {"rtol": 0, "atol": 0}
OPTIONS = [
    {},
    {"clip_radius": 0.02},
    {"debias": False, "rescale_lr": False},
    {"hess_approx": "gradsq"},
    {"hess_approx": "gradsq", "clip_radius": 0.3},
]


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """Whether a device is taken for a GPU; a switch for the tests."""

    def take(answer):
        monkeypatch.setattr(_fused, "_is_gpu", lambda device: answer)

    take(True)
    return take


def params_of(dtype=torch.float32):
    rng = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=rng).to(dtype) for shape in SHAPES]
    values[4] = values[4].to(memory_format=torch.channels_last)
    return [nn.Parameter(v) for v in values]


def train(optimizer, params, steps=2, draws=1, weight=1.0, noise=None):
    """Steps with gradients that depend on the draw; the noise of each is appended, or taken from a list."""
    for step in range(steps):
        for _ in range(draws):
            means = [p.detach().double() for p in params]
            with optimizer.sampled_params(train=True, weight=weight):
                if noise is not None:
                    noise.append([p.detach().double() - m for p, m in zip(params, means, strict=True)])
                for p in params:
                    p.grad = torch.sin(3 * p.detach() + step)
            for p, m in zip(params, means, strict=True):
                assert p.detach().double().equal(m)  # to the bit
        optimizer.step()
    return params


def state(optimizer, params):
    return [optimizer.state[p][name] for p in params for name in ("hess", "momentum")]


def assert_close(left, right, **tolerance):
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a.double(), b.double(), **tolerance)


@pytest.mark.parametrize(
    ("options", "draws", "weight"),
    [({}, 1, 2.0), ({}, 3, 1.0), *((options, *n) for options in OPTIONS for n in ((1, 1.0), (2, 0.5)))],
    ids=str,
)
def test_equal_to_eager_operations_given_the_same_noise(gpu, monkeypatch, options, draws, weight):
    noise = []
    params = params_of()
    optimizer = IVON(params, **SETTINGS, **options)
    train(optimizer, params, draws=draws, weight=weight, noise=noise)
    assert optimizer._draws.is_empty()

    gpu(False)
    recorded, means = iter(noise), []

    def displace(block):
        means[:] = [p.detach().clone() for p in block.params]
        for p, kept, eps in zip(block.params, block.kept, next(recorded), strict=True):
            kept.copy_(eps)
            p.add_(eps)

    def restore(block):
        for p, mean in zip(block.params, means, strict=True):
            p.copy_(mean)

    monkeypatch.setattr(_sampling.Block, "displace", displace)
    monkeypatch.setattr(_sampling.Block, "restore", restore)
    monkeypatch.setattr(_sampling.Block, "restore_and_keep_noise", restore)
    peers = [nn.Parameter(p.detach().double()) for p in params_of()]
    peer = IVON(peers, **SETTINGS, **options)
    train(peer, peers, draws=draws, weight=weight)
    assert_close(params, peers, rtol=1e-4, atol=1e-5)
    assert_close(state(optimizer, params), state(peer, peers), rtol=1e-3, atol=1e-4)


def test_noise_is_normal_and_another_each_time():
    p = nn.Parameter(torch.zeros(20_000))
    optimizer = IVON([p], **SETTINGS, weight_decay=0.5)
    optimizer.seed(3)
    draws = []
    for train in (True, False, True):
        with optimizer.sampled_params(train=train):
            draws.append(p.detach() * math.sqrt(100 * (0.5 + 0.5)))
    together = torch.cat(draws)
    assert stats.kstest(together, "norm").pvalue > 0.01
    assert together.unique().numel() > 0.999 * together.numel()
    for other in (draws[1], draws[2], draws[0].roll(1), draws[0].roll(1024), draws[0].roll(4)):
        assert abs(torch.corrcoef(torch.stack([draws[0], other]))[0, 1]) < 0.03


def test_noise_depends_on_the_seed_alone(gpu):
    def draw(seed):
        params = params_of()
        optimizer = IVON(params, **SETTINGS)
        optimizer.seed(seed)
        with optimizer.sampled_params():
            return [p.detach().clone() for p in params]

    assert_close(draw(1), draw(1), rtol=0, atol=0)
    assert any(not a.equal(b) for a, b in zip(draw(1), draw(2), strict=True))


def test_no_noise_is_stored():
    params = params_of()
    optimizer = IVON(params, **SETTINGS)
    with optimizer.sampled_params(train=True):
        for p in params:
            p.grad = torch.ones_like(p)
    assert all(pending.block.kept == [] for pending in optimizer._draws._pending)
    optimizer.step()


def test_parameters_that_step_at_different_times():
    params = params_of()
    optimizer = IVON(params, **SETTINGS)
    for step in range(4):
        for draw in range(2):
            with optimizer.sampled_params(train=True):
                for i, p in enumerate(params):
                    p.grad = None if i % 2 == 0 and step % 2 == draw else torch.sin(p.detach())
        optimizer.step()
    assert {optimizer.state[p]["step"] for p in params} == {4}
    assert all(p.isfinite().all() for p in params)


def test_a_beta1_that_is_cycled():
    """With a gradient that does not change the debiased momentum is this gradient, whatever beta1 was."""
    settings = {**SETTINGS, "lr": torch.tensor(0.1), "ess": 1e8, "beta2": 1 - 1e-12}  # h stays
    paths = []
    for beta1s in ((0.0,) * 5, (0.9, 0.5, 0.95, 0.0, 0.99)):
        params = params_of()
        optimizer = IVON(params, **settings)
        for step, beta1 in enumerate(beta1s):
            optimizer.param_groups[0]["betas"] = (beta1, settings["beta2"])
            for _ in range(1 + step % 2):
                with optimizer.sampled_params(train=True):
                    for i, p in enumerate(params):
                        p.grad = None if i % 2 and step == 1 else torch.full_like(p, 0.3 * i)
            optimizer.step()
        paths.append(params)
    assert_close(*paths, rtol=1e-5, atol=1e-6)
    assert not paths[0][4].equal(params_of()[4])


def test_resumed_in_the_middle_of_a_step():
    def half(optimizer, params):
        with optimizer.sampled_params(train=True):
            for p in params:
                p.grad = torch.sin(p.detach())

    params = params_of()
    optimizer = IVON(params, **SETTINGS)
    train(optimizer, params, steps=2)
    half(optimizer, params)
    saved = optimizer.state_dict()
    others = [nn.Parameter(p.detach().clone()) for p in params]
    other = IVON(others, **SETTINGS)
    other.load_state_dict(saved)
    for pair in ((optimizer, params), (other, others)):
        half(*pair)
        pair[0].step()
    assert_close(params, others, rtol=0, atol=0)
    assert_close(state(optimizer, params), state(other, others), rtol=0, atol=0)


@pytest.mark.parametrize("draws", [1, 2])
def test_gradients_of_another_layout(draws):
    start = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    results = []
    for transposed in (False, True):
        p = nn.Parameter(start.clone())
        optimizer = IVON([p], **SETTINGS)
        optimizer.seed(1)
        for _ in range(draws):
            with optimizer.sampled_params(train=True):
                grad = torch.sin(p.detach())
                p.grad = grad.t().contiguous().t() if transposed else grad
        optimizer.step()
        results.append([p.detach(), optimizer.state[p]["hess"]])
    assert_close(*results, rtol=0, atol=0)


def test_nan_stays_visible():
    p = nn.Parameter(torch.ones(10))
    optimizer = IVON([p], **SETTINGS, clip_radius=1.0)
    with optimizer.sampled_params(train=True):
        p.grad = torch.full((10,), float("nan"))
    optimizer.step()
    assert p.isnan().all()
    assert optimizer.state[p]["hess"].isnan().all()


def test_hessian_stays_positive():
    p = nn.Parameter(torch.zeros(4096))
    optimizer = IVON([p], lr=0.1, ess=1e6, hess_init=1e-3, beta2=0.0, weight_decay=1e-6)
    rng = torch.Generator().manual_seed(0)
    for scale in (1e3, 1e6, 1.0, 1e8):
        with optimizer.sampled_params(train=True):
            p.grad = scale * torch.randn(4096, generator=rng)
        optimizer.step()
        assert (optimizer.state[p]["hess"] + 1e-6 > 0).all()


def test_other_paths_are_taken_where_the_kernels_do_not_fit(monkeypatch):
    calls = []
    monkeypatch.setattr(_fused.Trip, "go", lambda *a, **k: calls.append(1))
    for dtype, options in (
        (torch.bfloat16, {}),
        (torch.float64, {}),
        (torch.float32, {"capturable": True}),
    ):
        params = params_of(dtype)
        train(IVON(params, **SETTINGS, **options), params)
    strided = nn.Parameter(torch.zeros(4, 8)[:, ::2])
    train(IVON([strided], **SETTINGS), [strided])
    assert not calls


def test_broken_kernels_are_noticed_and_reported(monkeypatch):
    _fused.works.cache_clear()
    monkeypatch.setattr(_fused, "update", lambda *a, **k: None)
    params = params_of()
    with pytest.warns(UserWarning, match="slower for it: a trial step is off by"):
        train(IVON(params, **SETTINGS), params)
    _fused.works.cache_clear()


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("conversion", [torch.bfloat16, torch.float64, torch.channels_last], ids=str)
def test_a_model_converted_within_the_context_has_the_means_after_it(conversion, train):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 2))
    optimizer = IVON(model.parameters(), **SETTINGS)
    before = [p.detach().clone() for p in model.parameters()]
    with optimizer.sampled_params(train=train):
        if isinstance(conversion, torch.memory_format):
            model.to(memory_format=conversion)
        else:
            model.to(conversion)
    assert_close(
        model.parameters(), [b.to(p) for b, p in zip(before, model.parameters(), strict=True)], **EXACT
    )


@pytest.mark.parametrize("conversion", [torch.bfloat16, torch.float64], ids=str)
def test_conversion_between_draw_and_step_is_like_one_after_it(conversion):
    trained = []
    for convert in (True, False):
        torch.manual_seed(0)
        layer = nn.Linear(40, 30)
        optimizer = IVON(layer.parameters(), **SETTINGS)
        optimizer.seed(1)
        with optimizer.sampled_params(train=True):
            layer(torch.ones(2, 40)).square().sum().backward()
        if convert:
            layer.to(conversion)
        optimizer.step()
        trained.append([*layer.parameters(), *state(optimizer, list(layer.parameters()))])
    assert_close(*trained, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("launch", range(4))  # the way to a draw and back, of two groups
@pytest.mark.parametrize("when", ["before", "after"])
def test_parameters_are_back_whenever_a_signal_comes(monkeypatch, launch, when):
    params = params_of()
    optimizer = IVON([{"params": params[:2]}, {"params": params[2:]}], **SETTINGS)
    assert _fused.works(torch.device("cpu"))  # tried now, not among the launches below
    before, start, launches = [p.detach().clone() for p in params], _fused._start, []

    def interrupted(*args):
        launches.append(args)
        if len(launches) - 1 == launch and when == "before":
            raise KeyboardInterrupt
        start(*args)
        if len(launches) - 1 == launch:
            raise KeyboardInterrupt

    monkeypatch.setattr(_fused, "_start", interrupted)
    with pytest.raises(KeyboardInterrupt), optimizer.sampled_params(train=True):
        pass
    assert_close(params, before, **EXACT)
    with optimizer.sampled_params():
        assert not params[0].equal(before[0])
    assert_close(params, before, **EXACT)


@pytest.mark.parametrize("role", ["hess", "momentum", "gradient"])
def test_sizes_that_do_not_fit_are_an_error_not_other_memory(role, shrink):
    p = nn.Parameter(torch.zeros(8))
    optimizer = IVON([p], **SETTINGS)
    with optimizer.sampled_params(train=True):
        p.grad = torch.ones(8)
    shrink(optimizer, p, role)
    with pytest.raises(RuntimeError, match="size"):
        optimizer.step()


def test_backward_passes_through_other_weights_are_errors():
    layer = nn.Linear(3, 3)
    optimizer = IVON(layer.parameters(), **SETTINGS)
    x = torch.ones(2, 3, requires_grad=True)

    def loss():
        return layer(layer(x)).square().sum()

    before = loss()
    with optimizer.sampled_params(train=True):
        inside = loss()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            before.backward()
        optimizer.param_groups[0]["params"][0].grad = torch.ones(3, 3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        inside.backward()
    outside = loss()
    optimizer.discard_draws()
    with optimizer.sampled_params(train=True):
        loss().backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outside.backward()
