"""Whatever way the numbers take through the machine, they are the same."""

import os
import platform
import sys
from itertools import permutations

import pytest
import torch
from torch import nn

from ivon import IVON, _kernels, _native, _stretches

SHAPES = [(300, 70), (5,), (), (0, 3), (64, 3, 3, 3), (90_000,), (7, 11)]


@pytest.fixture
def eager(monkeypatch):
    """Steps as where there is no C compiler."""
    monkeypatch.setattr(_native, "library", lambda: None)


@pytest.fixture
def compiled():
    if _native.library() is None:
        pytest.skip("no C compiler")


def params_of(dtype=torch.float32):
    rng = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=rng).to(dtype) for shape in SHAPES]
    values[4] = values[4].to(memory_format=torch.channels_last)
    return [nn.Parameter(v) for v in values]


def train(dtype=torch.float32, steps=4, threads=1, draws=1, **options):
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
            for _ in range(draws):
                with optimizer.sampled_params(train=True):
                    for p in params:
                        p.grad = torch.sin(p.detach() + step)
                        p.squared_grad = p.grad.square() + 0.1
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
def test_short_and_long_stretches(eager, monkeypatch, dtype, options):
    usual = train(dtype, **options)
    for small, length in ((0, 1 << 16), (1 << 30, 1 << 16), (64, 1000), (1 << 30, 10)):
        monkeypatch.setattr(_stretches, "SMALL", small)
        monkeypatch.setattr(_stretches, "CPU_STRETCH", length)
        # The last numbers of a stretch are not computed by vector instructions, whose rounding differs.
        assert_close(train(dtype, **options), usual, rtol=1e-5, atol=1e-6)


def test_lists_of_tensors_as_on_a_gpu(eager, monkeypatch):
    """The operations for GPUs, on a CPU."""
    usual, usual_16_bits = train(), train(torch.bfloat16)
    monkeypatch.setattr(_stretches, "_on_cpu", lambda tensor: False)
    monkeypatch.setattr(_stretches, "DEVICE_STRETCH", 1 << 15)
    assert_close(train(), usual, rtol=1e-5, atol=1e-6)
    assert_close(train(torch.bfloat16), usual_16_bits)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_radius": 0.3},
        {"debias": False, "rescale_lr": False},
        {"hess_approx": "gradsq"},
        {"hess_approx": "gradsq", "clip_radius": 0.3},
        {"hess_approx": "ggn"},
    ],
    ids=str,
)
@pytest.mark.parametrize("draws", [1, 2])
def test_compiled_steps(monkeypatch, compiled, options, draws):
    calls = set()
    call = _native._call
    monkeypatch.setattr(_native, "_call", lambda name, *a, **k: calls.add(name) or call(name, *a, **k))
    found = train(draws=draws, **options)
    assert calls == {"ivon_draw", "ivon_restore", "ivon_update"}
    calls.clear()
    monkeypatch.setattr(_native, "library", lambda: None)
    # A fused multiply-add rounds once where two operations round twice.
    assert_close(found, train(draws=draws, **options), rtol=1e-4, atol=1e-5)
    assert not calls


def test_compiled_steps_of_parameters_that_differ_in_layout_or_steps(monkeypatch, compiled):
    """Gradients of another layout, or of all entries the same, or missing; sums of two draws."""

    def run():
        start = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
        params = [nn.Parameter(start.clone()), nn.Parameter(start.t()), nn.Parameter(start[0].clone())]
        optimizer = IVON(params, lr=0.1, ess=10.0, beta2=0.9)
        optimizer.seed(1)
        for step in range(4):
            for _ in range(1 + step % 2):
                with optimizer.sampled_params(train=True):
                    params[0].grad = torch.sin(params[0].detach()).t().contiguous().t()
                    params[1].grad = torch.ones(()).expand(6, 8)
                    params[2].grad = None if step == 1 else torch.cos(params[2].detach())
            optimizer.step()
        return [p.detach() for p in params] + [optimizer.state[p]["hess"] for p in params]

    found = run()
    monkeypatch.setattr(_native, "library", lambda: None)
    assert_close(found, run(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_that_is_laid_out_anew_keeps_its_posterior_and_its_speed(monkeypatch, compiled, dtype):
    def run(layout):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1), nn.Linear(2, 3)).to(dtype)
        optimizer = IVON(model.parameters(), lr=1e-3, ess=100.0, beta2=0.9)
        optimizer.seed(1)
        for step in range(4):
            if step == 2:
                model.to(memory_format=layout)
                calls.clear()
            with optimizer.sampled_params(train=True):
                for p in model.parameters():
                    p.grad = torch.full_like(p, 0.1)
            optimizer.step()
        return [p.detach() + optimizer.state[p].get("residual", 0) for p in model.parameters()], optimizer

    calls = set()
    call = _native._call
    monkeypatch.setattr(_native, "_call", lambda name, *a, **k: calls.add(name) or call(name, *a, **k))
    plain, _ = run(torch.contiguous_format)
    found, optimizer = run(torch.channels_last)
    # The noise lies as the parameters do, and so goes to other entries; lr is small.
    assert_close(found, plain, rtol=0, atol=2e-3)
    if dtype == torch.float32:
        assert calls == {"ivon_draw", "ivon_restore", "ivon_update"}
    for p, state in optimizer.state.items():
        assert {t.stride() for t in state.values() if isinstance(t, torch.Tensor)} == {p.stride()}


def test_the_mean_of_16_bit_parameters_survives_another_layout():
    p = nn.Parameter(torch.ones(2, 3, 4, 4, dtype=torch.bfloat16))
    optimizer = IVON([p], lr=1e-3, ess=100.0)
    with optimizer.sampled_params(train=True):
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    optimizer.step()
    residual = optimizer.state[p]["residual"].clone()
    assert residual.count_nonzero()
    p.data = p.to(memory_format=torch.channels_last)
    with optimizer.sampled_params():
        pass
    assert torch.equal(optimizer.state[p]["residual"], residual)
    assert optimizer.state[p]["residual"].stride() == p.stride()


def test_states_are_made_once_whatever_the_layout():
    for value in (*_odd_layouts(torch.zeros(2, 3, 4, 5)), torch.zeros(4, 8)[:, ::2], torch.zeros(0, 3).t()):
        p = nn.Parameter(value)
        optimizer = IVON([p], lr=0.1, ess=10.0)
        seen = set()
        for _ in range(2):
            with optimizer.sampled_params():
                seen.add(optimizer.state[p]["hess"])
        assert len(seen) == 1


def _odd_layouts(whole):
    for order in permutations(range(4)):
        yield (turned := whole.permute(order))
        for dim in range(4):
            yield turned.narrow(dim, 0, 1)
            yield turned.narrow(dim, 0, 1).clone()


@pytest.mark.usefixtures("path")
def test_dtypes_in_one_group_are_those_in_groups_of_their_own():
    """Also with several draws in a step, whose sums are of all dtypes."""

    def run(separately):
        dtypes = (torch.float32, torch.bfloat16, torch.float64)
        params = [nn.Parameter(torch.linspace(1, 2, 50).to(dtype)) for dtype in dtypes]
        optimizer = IVON([{"params": [p]} for p in params] if separately else params, lr=0.1, ess=10.0)
        optimizer.seed(1)
        for step in range(4):
            for _ in range(1 + step % 2):
                with optimizer.sampled_params(train=True):
                    for p in params:
                        p.grad = torch.sin(p.detach())
            optimizer.step()
        return [p.detach() for p in params] + [optimizer.state[p]["hess"] for p in params]

    assert_close(run(separately=False), run(separately=True), rtol=0, atol=0)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(monkeypatch, compiled, threads):
    usual = train()
    monkeypatch.setattr(_native, "SHARE", 1 << 10)
    assert_close(train(threads=threads), usual, rtol=0, atol=0)


def test_a_backward_pass_through_other_weights_is_an_error(path):
    p = nn.Parameter(torch.ones(1 << 14))
    optimizer = IVON([p], lr=0.1, ess=10.0)
    before = (p**2).sum()
    with optimizer.sampled_params(train=True):
        inside = (p**2).sum()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            before.backward()
        (p**2).sum().backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        inside.backward()
    assert torch.equal(p, torch.ones(1 << 14))
    outside = (p**2).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outside.backward()


@pytest.mark.parametrize(
    ("compiler", "said"),
    [
        ("no-such-compiler", "No such file"),
        (f"{sys.executable} -c 'raise SystemExit(\"no licence\")'", "no licence"),
        ("", "there is no C compiler"),
        ("gcc '", "No closing quotation"),
        (f"{sys.executable} -c 'import os; os.write(2, bytes([233])); raise SystemExit(1)'", "\ufffd"),
    ],
)
def test_failure_to_compile_is_said_once_and_costs_only_time(monkeypatch, tmp_path, compiler, said):
    usual = train()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setattr(_native.shutil, "which", lambda name: None)
    _native.library.cache_clear()
    try:
        with pytest.warns(UserWarning, match=said) as warned:
            twice = [train(), train()]
    finally:
        _native.library.cache_clear()
    assert len(warned) == 1
    for found in twice:
        assert_close(found, usual, rtol=1e-4, atol=1e-5)


@pytest.fixture
def fresh_library():
    """As in a process that has not compiled yet."""
    _native.library.cache_clear()
    yield
    _native.library.cache_clear()


def test_what_was_compiled_is_kept_for_other_processes(monkeypatch, tmp_path, compiled, fresh_library):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _native.library() is not None
    (kept,) = (tmp_path / "ivon").iterdir()
    written = kept.stat().st_mtime_ns
    _native.library.cache_clear()
    assert _native.library() is not None
    assert [kept] == list((tmp_path / "ivon").iterdir()) and kept.stat().st_mtime_ns == written
    _native.library.cache_clear()
    monkeypatch.setattr(_native, "FLAGS", (*_native.FLAGS, "-g0"))  # as a new version of ours might
    assert _native.library() is not None
    assert len(list((tmp_path / "ivon").iterdir())) == 2


def test_a_damaged_file_is_replaced(monkeypatch, tmp_path, compiled, fresh_library):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "whole"))
    assert _native.library() is not None
    (whole,) = (tmp_path / "whole" / "ivon").iterdir()
    damaged = tmp_path / "ivon" / whole.name
    damaged.parent.mkdir()
    damaged.write_bytes(whole.read_bytes()[:1000])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _native.library.cache_clear()
    assert _native.library() is not None  # and this process lives on
    assert damaged.read_bytes() == whole.read_bytes()


def test_a_file_that_cannot_be_loaded_is_compiled_elsewhere(monkeypatch, tmp_path, compiled, fresh_library):
    """As where the home is mounted noexec."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(_native, "FLAGS", ("-std=c11", "-shared", "-fPIC"))  # is compiled sooner
    assert _native.library() is not None
    (kept,) = (tmp_path / "ivon").iterdir()
    written = kept.stat()
    load = _native.ctypes.CDLL

    def refuse(path):
        if str(tmp_path) in path:
            raise OSError("failed to map segment from shared object")
        return load(path)

    monkeypatch.setattr(_native.ctypes, "CDLL", refuse)
    _native.library.cache_clear()
    assert _native.library() is not None
    # Another node may be running what is there.
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


def test_what_is_kept_is_replaced_only_if_it_is_damaged(monkeypatch, tmp_path):
    def put():
        new.write_bytes(b"good")
        _native._put(str(new), kept)
        new.unlink(missing_ok=True)
        assert kept.read_bytes() == b"good"
        return kept.stat().st_mtime_ns

    def no_links(*_paths):
        raise PermissionError

    new, kept = tmp_path / "new", tmp_path / f"native-x-{_native._digest(b'good')}.so"
    first = put()
    assert put() == first
    kept.write_bytes(b"damaged")
    put()
    monkeypatch.setattr(os, "link", no_links)  # on some file systems
    kept.unlink()
    first = put()
    assert put() == first


def test_code_for_this_very_processor_is_for_this_node(monkeypatch, tmp_path, compiled, fresh_library):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", f"{os.environ.get('CC') or 'cc'} -mtune=native")
    monkeypatch.setattr(_native, "FLAGS", ("-std=c11", "-shared", "-fPIC"))  # is compiled sooner
    for node in ("one", "two", "two"):
        monkeypatch.setattr(platform, "node", lambda node=node: node)
        _native.library.cache_clear()
        assert _native.library() is not None
    assert len(list((tmp_path / "ivon").iterdir())) == 2


def test_compiled_without_a_place_to_keep_it(monkeypatch, tmp_path, compiled, fresh_library):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert _native.library() is not None
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_other_parameters_take_other_ways(monkeypatch, compiled):
    """Of another dtype, with gaps, of a class of its own, or in a graph that is to be played again."""

    class Special(torch.Tensor):
        pass

    calls = []
    monkeypatch.setattr(_native, "_call", lambda name, roles, *a, **k: calls.append(name))
    train(torch.bfloat16)
    assert set(calls) == {"ivon_normals"}
    calls.clear()
    train(torch.float64)
    for value in (torch.zeros(4, 8)[:, ::2], torch.zeros(5).as_subclass(Special)):
        p = nn.Parameter(value)
        optimizer = IVON([p], lr=0.1, ess=10.0)
        with optimizer.sampled_params(train=True):
            p.grad = torch.ones(p.shape)
        optimizer.step()
    assert set(calls) == {"ivon_normals"}


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
def test_weights_survive_a_failure_on_the_way_to_a_draw_or_back(eager, monkeypatch, dtype, phase):
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


class Signals(Exception):
    pass


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("phase", ["ivon_draw", "ivon_restore"])
def test_weights_survive_a_signal_beside_a_compiled_call(compiled, monkeypatch, phase, when, train):
    """Ctrl-C comes before the call or after it, never within: then all is at the draw, or nothing."""
    params = params_of()
    optimizer = IVON(params, lr=0.1, ess=10.0)
    before = [p.detach().clone() for p in params]
    call = _native._call
    signals = iter([Signals])

    def interrupted(name, *args, **kwargs):
        if when == "after":
            call(name, *args, **kwargs)
        if name == phase:
            for signal in signals:
                raise signal
        if when == "before":
            call(name, *args, **kwargs)

    monkeypatch.setattr(_native, "_call", interrupted)
    with pytest.raises(Signals), optimizer.sampled_params(train=train):
        assert not torch.equal(params[0], before[0])
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
    with optimizer.sampled_params(train=True):
        assert not torch.equal(params[0], before[0])
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))


@pytest.mark.parametrize("role", ["hess", "momentum", "gradient"])
@pytest.mark.parametrize("draws", [1, 2])
def test_sizes_that_do_not_fit_are_an_error_not_other_memory(compiled, role, draws, shrink):
    p = nn.Parameter(torch.zeros(8))
    optimizer = IVON([p], lr=0.1, ess=10.0)
    for _ in range(draws):
        with optimizer.sampled_params(train=True):
            p.grad = torch.ones(8)
    shrink(optimizer, p, role)
    with pytest.raises(RuntimeError, match=r"size|shape"):
        optimizer.step()
