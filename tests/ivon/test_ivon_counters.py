"""The noise of large models on a CPU: normal numbers from counters."""

import pytest
import torch
from scipy import stats
from torch import nn

from ivon import IVON, _compiled, _noise, _stretches, _threefry

PIECE = 1 << 12


@pytest.fixture
def counted(monkeypatch):
    """Small models draw as large ones do; not compiled."""
    monkeypatch.setattr(_noise, "COUNTED_FROM", 0)
    monkeypatch.setattr(_noise, "COUNTED_PIECE", PIECE)
    monkeypatch.setattr(_noise, "COMPILED_FROM", 1 << 62)


def numbers(key, total, start=0, stop=None):
    out = torch.empty((total if stop is None else stop) - start)
    _noise.fill(out, key, start=start, total=total)
    return out


def words(*values):
    return [torch.tensor([v - (1 << 32) if v >> 31 else v], dtype=torch.int32) for v in values]


ONES = 0xFFFFFFFF
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)  # its digits


@pytest.mark.parametrize(
    ("rounds", "counter", "key", "expected"),
    [
        (13, (0, 0), (0, 0), (0x9D1C5EC6, 0x8BD50731)),
        (13, (ONES, ONES), (ONES, ONES), (0xFD36D048, 0x2D17272C)),
        (13, PI[:2], PI[2:], (0xBA3E4725, 0xF27D669E)),
        (20, (0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        (20, (ONES, ONES), (ONES, ONES), (0x1CB996FC, 0xBB002BE7)),
        (20, PI[:2], PI[2:], (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_known_answers(rounds, counter, key, expected):
    """The test vectors that the authors publish with Random123."""
    found = _threefry.encipher(*words(*key), *words(*counter), rounds=rounds)
    assert [int(word) & ONES for word in found] == list(expected)


def test_numbers_are_standard_normal():
    count = 1 << 21
    place = torch.tensor([1, -2, 3, 0], dtype=torch.int32)
    lows, highs = torch.empty(2, count)
    _threefry.normals_in_stretches(lows, highs, place)
    for half in (lows, highs):
        # Seeds are fixed. A right generator has p-values below 1e-3 once in a thousand, for whole seeds.
        assert stats.kstest(half.double().numpy(), "norm").pvalue > 1e-3
    both = torch.cat([lows, highs]).double()
    for power, (mean, error) in {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96), 6: (15, 10170)}.items():
        # Five standard errors; `error` is the variance of that power of a normal number.
        assert abs(both.pow(power).mean() - mean) < 5 * (error / len(both)) ** 0.5
    for bound in (3.0, 4.0, 5.0):
        for tail in (both < -bound, both > bound):
            expected = stats.norm.sf(bound) * len(both)
            assert abs(tail.sum() - expected) < 5 * expected**0.5 + 1


def test_extreme_bits_give_finite_numbers():
    extremes = torch.tensor([0, 1, -1, 2**31 - 1, -(2**31)], dtype=torch.int32)
    low, high = _threefry.pair(*torch.meshgrid(extremes, extremes, indexing="ij"))
    assert low.isfinite().all() and high.isfinite().all()
    assert torch.hypot(low, high).max() == pytest.approx(6.66, abs=0.01)


def test_no_correlation(counted):
    """Between neighbours, the numbers of a pair, pieces, draws, and seeds that differ by one."""
    total = 256 * PIECE
    one = numbers("7 train 1 rank 0 block 0", total)
    others = {
        "neighbour": one.roll(1),
        "its pair": one.view(-1, 2, PIECE // 2).flip(1).reshape(-1),
        "next piece": one.roll(PIECE),
        "next draw": numbers("7 train 2 rank 0 block 0", total),
        "next seed": numbers("8 train 1 rank 0 block 0", total),
        "next rank": numbers("7 train 1 rank 1 block 0", total),
    }
    for name, other in others.items():
        for f in (torch.clone, torch.square, torch.abs):
            x, y = f(one).double(), f(other).double()
            r = torch.corrcoef(torch.stack([x, y]))[0, 1]
            assert abs(r) < 5 * total**-0.5, name  # five standard errors


@pytest.mark.parametrize("total", [10 * PIECE, 2 * PIECE + 1001, 2 * PIECE + 1000, 1, 2])
def test_any_part_can_be_had_alone(counted, total):
    whole = numbers("key", total)
    assert len(whole.unique()) >= total - 100  # of 40,000 floats some are equal by chance
    cuts = {0, 1, 5, PIECE // 2 - 1, PIECE, PIECE + 3, 2 * PIECE + 500, 2 * PIECE + 501, total}
    places = sorted(cut for cut in cuts if cut <= total)
    for start in places:
        for stop in places:
            if start <= stop:
                # The last numbers of a stretch are not computed by vector instructions.
                part = numbers("key", total, start, stop)
                torch.testing.assert_close(part, whole[start:stop], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_default_device_does_not_matter(counted, dtype):
    """Whole pieces, parts of pieces, and numbers from counters and from PyTorch's generator."""
    total = 2 * _noise.PIECE
    out, again = torch.empty(total, dtype=dtype), torch.empty(total, dtype=dtype)
    _noise.fill(out[5:], "key", start=5, total=total)
    torch.set_default_device("meta")
    try:
        _noise.fill(again[5:], "key", start=5, total=total)
    finally:
        torch.set_default_device(None)
    assert torch.equal(again[5:], out[5:])


def test_only_large_models_on_cpus_have_them():
    """Small models have the noise of PyTorch's generator, as in all records; float64 is not had from here."""
    at = _noise.COUNTED_FROM
    assert _noise.is_counted(at, torch.empty(0)) and not _noise.is_counted(at - 1, torch.empty(0))
    assert not _noise.is_counted(at, torch.empty(0, dtype=torch.float64))
    assert not _noise.is_counted(at, torch.empty(0, device="meta"))
    # Whether a process has all or a part.
    assert torch.equal(numbers("key", at, 10, 20), numbers("key", at, 5, 25)[5:15])
    plain = torch.randn(5, generator=_noise._generator("key piece 0", torch.device("cpu")))
    assert torch.equal(numbers("key", 5), plain)


def test_a_draw_has_the_noise_of_its_key(counted):
    """Made stretch by stretch in the draw, while small and large parameters take turns."""
    shapes = [(PIECE, 3), (7,), (0,), (64, 3, 3, 3), (100_000,), (), (5, 5), (70_000,)]
    params = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    with torch.no_grad():
        params[3].set_(torch.zeros(shapes[3]).to(memory_format=torch.channels_last))
    optimizer = IVON(params, lr=0.1, ess=1.0, hess_init=1.0, weight_decay=1e-4)
    optimizer.seed(3)
    total = sum(param.numel() for param in params)
    noise = numbers("3 test 1 block 0", total) / (1 + 1e-4) ** 0.5
    with optimizer.sampled_params():
        drawn = [_stretches.in_memory_order(param.detach()) for param in params]
        torch.testing.assert_close(torch.cat(drawn), noise, rtol=1e-5, atol=1e-6)
    assert not any(param.count_nonzero() for param in params)


@pytest.mark.slow
def test_compiled_numbers_are_the_same(monkeypatch, cpp_compiler):
    monkeypatch.setattr(_noise, "COUNTED_FROM", 0)
    monkeypatch.setattr(_noise, "COUNTED_PIECE", 1 << 14)
    total = (1 << 16) + 9001
    compiled = numbers("key", total)
    assert not _compiled._broken
    monkeypatch.setattr(_compiled, "normals", lambda *_: False)
    eager = numbers("key", total)
    # Logarithm and sine come from other libraries, each to a unit in the last place of its result; near the
    # zero of the logarithm that is little of it, and 1e-6 of a standard deviation at most.
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-6)
