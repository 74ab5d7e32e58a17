"""Whatever way the numbers take through the machine, they are the same."""

import multiprocessing

import pytest
import torch
from torch import nn

from ivon import IVON, _compiled, _kernels, _noise, _stretches

SHAPES = [(300, 70), (5,), (), (0, 3), (64, 3, 3, 3), (90_000,), (7, 11)]


def params_of(dtype=torch.float32):
    rng = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=rng).to(dtype) for shape in SHAPES]
    values[4] = values[4].to(memory_format=torch.channels_last)
    return [nn.Parameter(v) for v in values]


def train(dtype=torch.float32, steps=4, threads=1, **options):
    """A few steps with gradients that depend on the draw."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        params = params_of(dtype)
        optimizer = IVON(params, **{"lr": 0.1, "ess": 100.0, "hess_init": 0.5, "beta2": 0.9, **options})
        optimizer.seed(1)
        for step in range(steps):
            for p in params:
                p.grad = None
            with optimizer.sampled_params(train=True):
                for p in params:
                    p.grad = torch.sin(p.detach() + step)
            optimizer.step()
    finally:
        torch.set_num_threads(before)
    names = ("hess", "momentum") + (("residual",) if dtype == torch.bfloat16 else ())
    return [p.detach() for p in params] + [optimizer.state[p][n] for p in params for n in names]


def assert_close(left, right, **tolerance):
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("draws", [1, 2])
def test_rounded_draws_do_not_disturb_the_hessian(dtype, draws):
    """sigma is 1e-4, the spacing of 16-bit weights far more: Eq. 3 takes the noise as it was drawn."""

    def hessians(dtype):
        params = params_of(torch.bfloat16)
        for p in params:
            p.data = p.to(dtype)  # the same means
        optimizer = IVON(params, lr=0.1, ess=1e10, hess_init=0.01, beta2=0.999)
        optimizer.seed(1)
        rng = torch.Generator().manual_seed(2)
        for _ in range(5):
            for _ in range(draws):
                with optimizer.sampled_params(train=True):
                    for p in params:
                        p.grad = (torch.randn(p.shape, generator=rng) / 1000).half().bfloat16().to(dtype)
            optimizer.step()
        return [optimizer.state[p]["hess"] for p in params]

    expected = hessians(torch.float32)
    assert max(h.max() for h in expected if h.numel()) > 0.1  # it has moved
    # float32 weights of order 1 show a noise of 1e-4 to a thousandth.
    assert_close(hessians(dtype), expected, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("options", [{}, {"clip_radius": 0.3}, {"hess_approx": "gradsq"}], ids=str)
def test_short_and_long_stretches(monkeypatch, dtype, options):
    usual = train(dtype, **options)
    for small, length in ((0, 1 << 16), (1 << 30, 1 << 16), (64, 1000), (1 << 30, 10)):
        monkeypatch.setattr(_stretches, "SMALL", small)
        monkeypatch.setattr(_stretches, "CPU_STRETCH", length)
        # The last numbers of a stretch are not computed by vector instructions, whose rounding differs.
        assert_close(train(dtype, **options), usual, rtol=1e-5, atol=1e-6)


def test_lists_of_tensors_as_on_a_gpu(monkeypatch):
    """The operations for GPUs, on a CPU."""
    usual, usual_16_bits = train(), train(torch.bfloat16)
    monkeypatch.setattr(_stretches, "_on_cpu", lambda tensor: False)
    monkeypatch.setattr(_stretches, "DEVICE_STRETCH", 1 << 15)
    assert_close(train(), usual, rtol=1e-5, atol=1e-6)
    assert_close(train(torch.bfloat16), usual_16_bits)


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"clip_radius": 0.3, "hess_approx": "gradsq"}, marks=pytest.mark.slow)],
    ids=str,
)
def test_compiled_steps(monkeypatch, cpp_compiler, options):
    usual = train(**options)
    calls = []
    run = _compiled._run
    monkeypatch.setattr(_compiled, "_run", lambda f, *a: calls.append(f.__name__) or run(f, *a))
    monkeypatch.setattr(_compiled, "WORTHWHILE", 0)
    monkeypatch.setattr(_stretches, "LONG_STRETCH", 1 << 14)
    # A fused multiply-add rounds once where two operations round twice.
    assert_close(train(**options), usual, rtol=1e-4, atol=1e-5)
    assert not _compiled._broken
    assert set(calls) == {"_displace", "_restore", "_update"}
    p = nn.Parameter(torch.ones(1 << 14))
    optimizer = IVON([p], lr=0.1, ess=10.0)
    with optimizer.sampled_params(train=True):
        loss = (p**2).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    assert torch.equal(p, torch.ones(1 << 14))


def test_failure_to_compile_is_said_once_and_costs_only_time(monkeypatch):
    usual = train()

    def fail(function):
        from torch._dynamo.exc import TorchDynamoException

        raise TorchDynamoException("no compiler here")

    monkeypatch.setattr(_compiled, "_compile", fail)
    monkeypatch.setattr(_compiled, "_broken", False)
    monkeypatch.setattr(_compiled, "WORTHWHILE", 0)
    with pytest.warns(UserWarning, match="no compiler here") as warned:
        assert_close(train(), usual, rtol=1e-5, atol=1e-6)
    assert len(warned) == 1


@pytest.mark.parametrize("threads", [2, 3])
def test_number_of_threads_does_not_change_the_noise(threads):
    one, several = torch.empty(300_001), torch.empty(300_001)
    _noise.fill(one, "key", start=0, total=len(one))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        _noise.fill(several, "key", start=0, total=len(one))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, several)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_draws_with_threads_of_its_own():
    noise = torch.empty(32 * _noise.PIECE)
    places = {"start": 0, "total": len(noise)}
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        _noise.fill(noise, "key", **places)
        context = multiprocessing.get_context("fork")
        child = context.Process(target=_noise.fill, args=(noise, "key"), kwargs=places)
        child.start()
        child.join(timeout=20)
        code = child.exitcode
        child.kill()
    finally:
        torch.set_num_threads(before)
    assert code == 0


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 200_000), (65_536, 65_540), (1, 2), (70_001, 199_999), (5, 5)]
)
def test_any_part_of_the_noise_can_be_had_alone(start, stop):
    whole, part = torch.empty(200_000), torch.empty(stop - start)
    _noise.fill(whole, "key", start=0, total=200_000)
    _noise.fill(part, "key", start=start, total=200_000)
    assert torch.equal(part, whole[start:stop])


def test_noise_is_standard_normal_and_differs_from_piece_to_piece():
    noise = torch.empty(4 * _noise.PIECE)
    _noise.fill(noise, "key", start=0, total=len(noise))
    # 262,144 numbers: standard errors of mean and variance are 0.002 and 0.003.
    assert abs(noise.mean().item()) < 0.01
    assert noise.var().item() == pytest.approx(1, abs=0.015)
    assert noise.pow(4).mean().item() == pytest.approx(3, abs=0.1)
    assert len(noise.view(4, -1).unique(dim=0)) == 4


@pytest.mark.parametrize(
    ("dtype", "phase"),
    [
        (torch.float32, "draw"),
        (torch.float32, "noise_seen"),
        (torch.bfloat16, "draw"),
        (torch.bfloat16, "noise"),
    ],
    ids=str,
)
def test_weights_survive_a_failure_on_the_way_to_a_draw_or_back(monkeypatch, dtype, phase):
    """Out of memory, or Ctrl-C, when some of the parameters are at the draw and others are not."""
    params = params_of(dtype)
    optimizer = IVON(params, lr=0.1, ess=10.0)
    before = [p.detach().clone() for p in params]
    original, calls = getattr(_kernels, phase), []

    def fail_at_the_second_stretch(*args, **kwargs):
        calls.append(None)
        if len(calls) == 2:
            raise MemoryError
        return original(*args, **kwargs)

    monkeypatch.setattr(_kernels, phase, fail_at_the_second_stretch)
    with pytest.raises(MemoryError), optimizer.sampled_params(train=True):
        assert not torch.equal(params[0], before[0])
    assert len(calls) == 2
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
    with optimizer.sampled_params():
        pass  # and the optimizer is ready for the next
