"""Standard normal numbers from counters: Threefry-2x32 and the transform of Box and Muller.

The generator (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011) enciphers a counter with a
key by additions, rotations and exclusive ors of 32-bit words. Each pair of numbers is computed for itself:
any part of them can be had alone, by anyone. _native.c makes the same numbers in a fifteenth of the time.
"""

import torch
from torch import Tensor

PAIRS = 64  # in a block of numbers: the first of each, then the second of each
BLOCK = 2 * PAIRS
EAGER = 1 << 9  # blocks; few enough that intermediate results stay in the cache
Word = Tensor | int  # int32


def fill(out: Tensor, key: int, start: int) -> None:
    """Fill a flat tensor, float32 or float64, with the numbers start, start + 1, ... of a key of 64 bits."""
    block, stop = start // BLOCK, start + out.numel()
    while block * BLOCK < stop:
        blocks = min(EAGER, -(-stop // BLOCK) - block)
        begin = block * BLOCK
        numbers = normals(key, block, blocks, out.dtype)
        first, last = max(start, begin), min(stop, begin + len(numbers))
        out[first - start : last - start] = numbers[first - begin : last - begin]
        block += blocks


def normals(key: int, block: int, blocks: int, dtype: torch.dtype) -> Tensor:
    """The numbers of so many blocks; the same in either dtype, but for rounding."""
    counters = torch.arange(block * PAIRS, (block + blocks) * PAIRS, device="cpu")
    x0, x1 = encipher(*_words(torch.tensor(key - (key >> 63 << 64), device="cpu")), *_words(counters))
    low, high = pair(x0, x1, dtype)
    return torch.stack([low.view(-1, PAIRS), high.view(-1, PAIRS)], dim=1).view(-1)


def _words(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The lower and the upper 32 bits of int64."""
    return numbers.to(torch.int32), (numbers >> 32).to(torch.int32)


def encipher(
    key0: Word, key1: Word, counter0: Word, counter1: Word, rounds: int = 13
) -> tuple[Tensor, Tensor]:
    """Threefry-2x32. 13 rounds are the fewest that pass all of BigCrush (Table 2)."""
    # Integers of 32 bits wrap around; the shift to the right brings copies of the sign, to be masked.
    keys = (key0, key1, key0 ^ key1 ^ 0x1BD11BDA)
    x0, x1 = counter0 + key0, counter1 + key1
    for i in range(rounds):
        turn = (13, 15, 26, 6, 17, 29, 16, 24)[i % 8]
        x0 = x0 + x1
        x1 = x0 ^ ((x1 << turn) | ((x1 >> (32 - turn)) & ((1 << turn) - 1)))
        if i % 4 == 3:
            step = i // 4 + 1
            x0 = x0 + keys[step % 3]
            x1 = x1 + (keys[(step + 1) % 3] + step)
    return x0, x1  # type: ignore[return-value]


def pair(x0: Tensor, x1: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two independent standard normals from 64 random bits.

    31 bits of the first word are the radius, at most 6.66, and its sign chooses a half of the circle; the
    second word is the angle in it, from -pi / 2 to pi / 2.
    """
    uniform = ((x0 & 0x7FFFFFFF).to(dtype) + 0.5) * 2.0**-31
    radius = torch.sqrt(torch.log(uniform) * -2) * ((x0 >> 31) | 1).to(dtype)
    angle = x1.to(dtype) * 7.314590396335798e-10  # pi / 2^32
    return radius * torch.cos(angle), radius * torch.sin(angle)
