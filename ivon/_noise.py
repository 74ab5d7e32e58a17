"""Where the random numbers of a draw come from: standard normals that are a function of a key and a place."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ivon import _compiled, _threefry

# On a CPU every piece of so many numbers has a generator of its own. Then threads can share the work (one
# generator is sequential, and drawing takes longer than anything else in a step), any part of the numbers can
# be had alone (a rank needs those of its shard), and the result does not depend on who draws what.
PIECE = 1 << 16

# Of so many numbers for one draw on, those of a CPU come from counters: a generator that is faster once it is
# compiled, as the whole step is then. It depends on the whole model, never on what a process has of it.
COUNTED_FROM = _compiled.WORTHWHILE
# The piece of a generator that makes two numbers at once: the first and the second half of the piece.
COUNTED_PIECE = 1 << 20
COMPILED_FROM = 1 << 12  # pairs; fewer are faster without the call


@dataclass
class NoiseStream:
    """The random stream of an optimizer: every draw is a function of (seed, purpose, count, rank).

    Three integers are the whole state, the same on every device, so a checkpoint needs no generator state.
    Test draws have a count of their own: evaluating in the middle of a training does not change it.
    """

    seed: int
    train_draws: int = 0
    test_draws: int = 0

    def next_train(self, rank: int) -> str:
        """Key of the next training draw; ranks of equal number draw alike."""
        self.train_draws += 1
        return f"{self.seed} train {self.train_draws} rank {rank}"

    def next_test(self) -> str:
        """Key of the next test draw."""
        self.test_draws += 1
        return f"{self.seed} test {self.test_draws}"


def fill(out: Tensor, key: str, *, start: int, total: int) -> None:
    """Write into the flat tensor `out` the numbers start, start + 1, ... of the `total` that belong to `key`.

    On a GPU the numbers of one call come from one kernel: they are a function of (key, start).
    """
    if out.device.type != "cpu":
        out.normal_(generator=_generator(f"{key} from {start}", out.device))
        return
    if is_counted(total, out):
        _count(out, key, start, total)
        return
    first, last = start // PIECE, -(-(start + out.numel()) // PIECE)
    # Below a million numbers another thread wakes up too late to help.
    threads = min(torch.get_num_threads(), max((last - first) // 16, 1))

    def draw(pieces: range) -> None:
        for piece in pieces:
            _fill_from_piece(out, key, piece, start, total)

    others = [_pool().submit(draw, range(first + i, last, threads)) for i in range(1, threads)]
    draw(range(first, last, threads))
    for other in others:
        other.result()


def is_counted(total: int, like: Tensor) -> bool:
    """Whether `total` numbers for tensors such as this come from counters, which give no float64."""
    return total >= COUNTED_FROM and like.device.type == "cpu" and like.dtype is torch.float32


def _count(out: Tensor, key: str, start: int, total: int) -> None:
    words = torch.frombuffer(bytearray(digest(key)), dtype=torch.int32).tolist()
    stop = start + out.numel()
    for piece in range(start // COUNTED_PIECE, -(-stop // COUNTED_PIECE)):
        begin, end = piece * COUNTED_PIECE, min((piece + 1) * COUNTED_PIECE, total)
        half = (end - begin + 1) // 2
        if start <= begin and end <= stop and (end - begin) % 2 == 0:
            lows, highs = out[begin - start : end - start].split(half)
            _pairs(lows, highs, [*words, piece, 0])
            continue
        for row, middle in enumerate((begin, begin + half)):  # what is wanted of each half
            first, last = max(start, middle), min(stop, middle + half, end)
            if first < last:
                pairs = out.new_empty(2, last - first)
                _pairs(pairs[0], pairs[1], [*words, piece, first - middle])
                out[first - start : last - start] = pairs[row]


def _pairs(lows: Tensor, highs: Tensor, place: list[int]) -> None:
    where = torch.tensor(place, dtype=torch.int32, device=lows.device)
    with torch.no_grad():
        if lows.numel() < COMPILED_FROM or not _compiled.normals(lows, highs, where):
            _threefry.normals_in_stretches(lows, highs, where)


def _fill_from_piece(out: Tensor, key: str, piece: int, start: int, total: int) -> None:
    begin, end = piece * PIECE, min((piece + 1) * PIECE, total)
    generator = _generator(f"{key} piece {piece}", out.device)
    with torch.no_grad():  # the mode is each thread's own
        if start <= begin and end <= start + out.numel():
            out[begin - start : end - start].normal_(generator=generator)
            return
        whole = out.new_empty(end - begin).normal_(generator=generator)
        wanted = whole[max(start - begin, 0) : start + out.numel() - begin]
        offset = max(begin - start, 0)
        out[offset : offset + wanted.numel()] = wanted


def _generator(text: str, device: torch.device) -> torch.Generator:
    # A hash, as CPU generators look at 32 bits of their seed only.
    return torch.Generator(device).manual_seed(int.from_bytes(digest(text), "little"))


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads that draw beside the caller's own; PyTorch lets go of the interpreter while it draws."""
    return ThreadPoolExecutor(thread_name_prefix="ivon-noise")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # its threads stay behind in the parent
