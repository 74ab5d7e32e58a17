"""The noise on a CPU: normal numbers from counters."""

import multiprocessing

import pytest
import torch
from scipy import stats
from torch import nn

from ivon import IVON, _native, _noise, _stretches, _threefry

BLOCK = _threefry.BLOCK
ONES = 0xFFFFFFFF
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)  # its digits


def numbers(key, start, stop, dtype=torch.float32):
    out = torch.empty(stop - start, dtype=dtype)
    _noise.fill(out, key, start=start)
    return out


def words(*values):
    return [torch.tensor([v - (1 << 32) if v >> 31 else v], dtype=torch.int32) for v in values]


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


@pytest.mark.parametrize("key", [0, 1, ONES, 1 << 63, (1 << 64) - 1, PI[0] << 32 | PI[1]])
@pytest.mark.parametrize("place", [0, 5 * BLOCK + 3, (1 << 39) - 7, (1 << 45) + 1])
def test_compiled_numbers_are_the_same(key, place):
    """Where the counters have one word, where they go on to a second (at 2^39 numbers), and far beyond."""
    compiled, eager = torch.empty(2, 3001)
    if not _native.normals(compiled, key, place):
        pytest.skip("no C compiler")
    _threefry.fill(eager, key, place)
    # Logarithm and sine are other series, each right to a unit in the last place of its result; near the
    # zero of the logarithm that is little of it, and 1e-6 of a standard deviation at most.
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-6)


def test_numbers_in_float64_are_the_same():
    single, double = numbers("key", 3, 5000), numbers("key", 3, 5000, torch.float64)
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-6)
    assert not double.equal(double.float().double())  # but have more digits


def test_numbers_are_standard_normal(path):
    count = 1 << 22
    both = numbers("3", 0, count)
    for half in both.view(-1, 2, BLOCK // 2).unbind(1):
        # Seeds are fixed. A right generator has p-values below 1e-3 once in a thousand, for whole seeds.
        assert stats.kstest(half.reshape(-1).double().numpy(), "norm").pvalue > 1e-3
    both = both.double()
    for power, (mean, error) in {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96), 6: (15, 10170)}.items():
        # Five standard errors; `error` is the variance of that power of a normal number.
        assert abs(both.pow(power).mean() - mean) < 5 * (error / count) ** 0.5
    for bound in (3.0, 4.0, 5.0):
        for tail in (both < -bound, both > bound):
            expected = stats.norm.sf(bound) * count
            assert abs(tail.sum() - expected) < 5 * expected**0.5 + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_bits_give_finite_numbers(dtype):
    extremes = torch.tensor([0, 1, -1, 2**31 - 1, -(2**31)], dtype=torch.int32)
    low, high = _threefry.pair(*torch.meshgrid(extremes, extremes, indexing="ij"), dtype)
    assert low.isfinite().all() and high.isfinite().all()
    assert torch.hypot(low, high).max() == pytest.approx(6.66, abs=0.01)


def test_no_correlation():
    """Between neighbours, the numbers of a pair, blocks, draws, and seeds that differ by one."""
    total = 1 << 20
    one = numbers("7 train 1 rank 0 block 0", 0, total)
    others = {
        "neighbour": one.roll(1),
        "its pair": one.view(-1, 2, BLOCK // 2).flip(1).reshape(-1),
        "next block": one.roll(BLOCK),
        "next draw": numbers("7 train 2 rank 0 block 0", 0, total),
        "next seed": numbers("8 train 1 rank 0 block 0", 0, total),
        "next rank": numbers("7 train 1 rank 1 block 0", 0, total),
    }
    for name, other in others.items():
        for f in (torch.clone, torch.square, torch.abs):
            x, y = f(one).double(), f(other).double()
            r = torch.corrcoef(torch.stack([x, y]))[0, 1]
            assert abs(r) < 5 * total**-0.5, name  # five standard errors


def test_any_part_can_be_had_alone(path):
    total = 2 * _threefry.EAGER * BLOCK + 1001
    whole = numbers("key", 0, total)
    assert len(whole.unique()) >= total - 1000  # of 132,000 floats some are equal by chance
    places = sorted({0, 1, 5, BLOCK - 1, BLOCK // 2, BLOCK, BLOCK + 3, total // 2, total - 1, total})
    for start in places:
        for stop in places:
            if start <= stop:
                # The last numbers of a stretch are not computed by vector instructions.
                part = numbers("key", start, stop)
                torch.testing.assert_close(part, whole[start:stop], rtol=1e-5, atol=1e-6)


def test_a_part_of_compiled_numbers_has_the_same_bits():
    """So a step does not depend on how the parameters are divided among processes and threads."""
    if _native.library() is None:
        pytest.skip("no C compiler")
    whole = numbers("key", 0, 5000)
    for start, stop in ((0, 1), (1, 2), (63, 65), (127, 130), (700, 4999)):
        assert torch.equal(numbers("key", start, stop), whole[start:stop])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("path")
def test_a_default_device_does_not_matter(dtype):
    out, again = torch.empty(2, 5000, dtype=dtype)
    _noise.fill(out, "key", start=5)
    torch.set_default_device("meta")
    try:
        _noise.fill(again, "key", start=5)
    finally:
        torch.set_default_device(None)
    assert torch.equal(again, out)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_draws_with_threads_of_its_own():
    if _native.library() is None:
        pytest.skip("no C compiler")  # and PyTorch's own threads are lost in a fork
    noise = torch.empty(4 * _native.SHARE)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        _noise.fill(noise, "key", start=0)
        context = multiprocessing.get_context("fork")
        child = context.Process(target=_noise.fill, args=(noise, "key"), kwargs={"start": 0})
        child.start()
        child.join(timeout=20)
        code = child.exitcode
        child.kill()
    finally:
        torch.set_num_threads(before)
    assert code == 0


@pytest.mark.usefixtures("path")
def test_a_draw_has_the_noise_of_its_key():
    """Made in the draw, while small and large parameters take turns."""
    shapes = [(3000, 3), (7,), (0,), (64, 3, 3, 3), (100_000,), (), (5, 5), (70_000,)]
    params = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    with torch.no_grad():
        params[3].set_(torch.zeros(shapes[3]).to(memory_format=torch.channels_last))
    optimizer = IVON(params, lr=0.1, ess=1.0, hess_init=1.0, weight_decay=1e-4)
    optimizer.seed(3)
    total = sum(param.numel() for param in params)
    noise = numbers("3 test 1 block 0", 0, total) / (1 + 1e-4) ** 0.5
    with optimizer.sampled_params():
        drawn = [_stretches.in_memory_order(param.detach()) for param in params]
        torch.testing.assert_close(torch.cat(drawn), noise, rtol=1e-5, atol=1e-6)
    assert not any(param.count_nonzero() for param in params)
