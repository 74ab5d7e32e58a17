"""What the losses of a training say of its learning rate."""

import math
from collections.abc import Iterable
from statistics import median

_BLOCKS = 20  # whose medians are compared, so that single batches do not count
_GROWN = 0.1  # beyond the first loss, as a share of it
_PEAK = 1.5  # times the first loss; 7 % of healthy small trainings had one, and were soon back
_FALLEN = 0.5  # times the first loss, by which a training has recovered from a peak
_RETURNED = 0.5  # of the way up from the least loss to the first; healthy ones had 0.13 at most


def checked(losses: Iterable[float]) -> list[float]:
    """As numbers; ValueError if there are none, or something else."""
    try:
        values = [float(loss) for loss in losses]
    except (TypeError, ValueError):
        raise ValueError("losses must be numbers, the training losses so far in their order") from None
    if not values:
        raise ValueError("losses must have one at least, got none")
    return values


def too_high(losses: list[float]) -> str | None:
    """Why, if they are those of a learning rate that is too high; for losses from the first step on."""
    size = -(-len(losses) // _BLOCKS)
    for loss in losses[-size:]:
        if not math.isfinite(loss):
            return f"the loss is {loss:g}"
    finite = [loss for loss in losses if math.isfinite(loss)]  # single steps may have overflowed
    blocks = [finite[i : i + size] for i in range(0, len(finite), size)]
    levels = [median(block) for block in blocks]
    # Standard deviations: losses of densities may begin next to 0, and any noise would be growth.
    spreads = [
        median(abs(loss - level) for loss in block) for block, level in zip(blocks, levels, strict=True)
    ]
    of_one = 1.5 * median(spreads)
    of_level = 1.25 * of_one / math.sqrt(size)
    first, last, least, peak = finite[0], levels[-1], min(levels), max(finite)
    if last > first + max(_GROWN * abs(first), 4 * of_one):
        return f"the loss has grown from {first:.3g} to {last:.3g}"
    risen = peak > first + max((_PEAK - 1) * abs(first), 6 * of_one)
    if risen and last > first - (1 - _FALLEN) * abs(first):
        return f"the loss went from {first:.3g} up to {peak:.3g} and is at {last:.3g} now"
    if last > least + max(_RETURNED * (first - least), _GROWN * abs(first), 6 * of_level):
        return f"the loss had fallen from {first:.3g} to {least:.3g} and is back at {last:.3g}"
    return None
