"""Standard normal numbers from counters: Threefry-2x32 and the transform of Box and Muller.

The generator (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011) enciphers a counter with a
key by additions, rotations and exclusive ors of 32-bit words. Each number is computed for itself, so that
compiled the work is vectorised, and takes less than half the time of PyTorch's generator.
"""

import torch
from torch import Tensor

EAGER = 1 << 15  # pairs; few enough that intermediate results stay in the cache
Word = Tensor | int  # int32


def normals(lows: Tensor, highs: Tensor, place: Tensor) -> None:
    """Fill two flat float32 tensors of equal length; the i-th pair is a function of `place` and i.

    `place`: four int32, the two words of the key, the second word of the counter, the first word for i = 0.
    """
    key0, key1, second, first = place.unbind()
    counters = torch.arange(lows.numel(), dtype=torch.int32, device=lows.device) + first
    low, high = pair(*encipher(key0, key1, counters, second))
    lows.copy_(low)
    highs.copy_(high)


def normals_in_stretches(lows: Tensor, highs: Tensor, place: Tensor) -> None:
    """`normals`, uncompiled."""
    place = place.clone()
    for low, high in zip(lows.split(EAGER), highs.split(EAGER), strict=True):
        normals(low, high, place)
        place[3] += low.numel()


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


def pair(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent standard normals from 64 random bits.

    31 bits of the first word are the radius, at most 6.66, and its sign chooses a half of the circle; the
    second word is the angle in it, from -pi / 2 to pi / 2.
    """
    uniform = ((x0 & 0x7FFFFFFF).to(torch.float32) + 0.5) * 2.0**-31
    # Constants as literals: others would be arguments of the compiled function, and read for every pair.
    radius = torch.sqrt(torch.log(uniform) * -2) * ((x0 >> 31) | 1).to(torch.float32)
    angle = x1.to(torch.float32) * 7.314590396335798e-10  # pi / 2^32
    return radius * torch.cos(angle), radius * torch.sin(angle)
