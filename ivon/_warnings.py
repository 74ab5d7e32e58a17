"""What is out of range among the findings, and what to do about it, in plain words."""

import math
from collections.abc import Iterator

from ivon._findings import Findings
from ivon._state import Group
from ivon.suggest import LEAST_MOVE, beta2_for

# Beyond these there is a warning. They are ours; the paper's settings lie within, as noted.
# In small trainings whose loss had grown 132 of 139 had a larger gain and all but one of the others larger
# steps; those that ended at less than three times the best loss for their task had gains up to 9.
FAR_GAIN = 10.0
FAR_GAIN_ALONE = 30.0  # of a single layer, whose weights are as large as its inputs are small
LARGE_STEP = 0.1
DEAD = 0.5
FIRST_NOISE = 0.3  # GPT-2 0.02, ResNet-50 0.07, ResNet-20 0.1; at 0.5 a narrow ResNet-20 did not train
LEARNED_NOISE = 1.0
LEAST_NOISE = 1e-4
UNRESOLVED = 0.1
CLIPPED = 0.99  # clipping most entries is fine: the small radius for transformers may well do so
NEGATIVE = 0.25
FLOORED = 1e-3
PRECISION_CHANGE = 30.0  # h falls by 7.4 at most where 14 % of hess_init are left, as on CIFAR


def warnings_of(found: Findings, group: Group, total_steps: int | None) -> Iterator[str]:
    """One for each number that is; `total_steps` is the planned length of the training."""
    if not found.entries:
        return
    if found.nonfinite > 0:
        yield (
            f"{found.nonfinite:.2%} of the entries are infinite or NaN: the training has diverged; begin "
            f"again with a lower lr, a clip_radius or a larger hess_init"
        )
        return  # the other numbers mean nothing now
    signs = list(_signs_of_divergence(found))
    if signs:
        yield too_high_lr([group], signs)
    moved = found.hess_change >= LEAST_MOVE
    run, beta2 = max(total_steps or 0, found.steps), group["beta2"]
    if run and not moved and 1 - beta2**run < LEAST_MOVE:
        fit = beta2_for(run)
        yield (
            f"the Hessian {'will hardly move' if run > found.steps else 'has hardly moved'}: after {run:,} "
            f"steps {beta2**run:.0%} of hess_init are left, as beta2 = {beta2:.9g} averages over "
            f"1 / (1 - beta2) = {1 / (1 - beta2):,.0f} steps; train longer"
            + (f", or take a beta2 of about {fit:.9g}" if fit < beta2 else "")
        )
    if signs:
        return  # what the other numbers are is a consequence
    noise = f"the noise is {found.noise_to_weight:.2g} times the weights (rms {found.weight_rms:.2g})"
    product = f"ess * hess_init = {group['ess'] * group['hess_init']:.3g}"
    if not moved and FIRST_NOISE < found.noise_to_weight < math.inf:
        yield f"{noise} and may drown them: {product} is too small, raise hess_init or ess"
    if moved and LEARNED_NOISE < found.noise_to_weight < math.inf:
        yield (
            f"{noise}: the data say little about most of them, or ess is too small; a larger weight_decay "
            f"narrows the prior, a larger ess prior and posterior"
        )
    if found.noise_to_weight < LEAST_NOISE:
        yield (
            f"{noise}, which makes the Hessian estimates very noisy: {product} is too large, lower "
            f"hess_init or ess"
        )
    if found.unresolved > UNRESOLVED:
        yield (
            f"the noise of {found.unresolved:.0%} of the entries is below the rounding of their parameters: "
            f"keep these in float32 (with autocast, if need be), or lower hess_init or ess"
        )
    if found.clipped > CLIPPED:
        yield (
            f"{found.clipped:.1%} of the entries would make a clipped step, of one size whatever h is: raise "
            f"clip_radius = {group['clip_radius']:g} and lower lr (their product bounds a step), or raise "
            f"hess_init"
        )
    if found.negative > NEGATIVE:
        yield (
            f"{found.negative:.0%} of the entries have h < 0, a sigma above the prior's: the estimates are "
            f"noisy; use more mc_samples, larger batches or a larger beta2"
        )
    if found.floored > FLOORED:
        yield (
            f"{found.floored:.2%} of the entries have h + weight_decay next to 0 and so a huge sigma: use a "
            f"larger beta2, more mc_samples or a larger weight_decay"
        )
    factor = 1 + found.hess_median  # of h + delta since the start
    if not 1 / PRECISION_CHANGE <= factor <= PRECISION_CHANGE:
        hess = factor * (group["hess_init"] + group["weight_decay"]) - group["weight_decay"]
        yield (
            f"the median of h + weight_decay is {factor:.2g} times what it was, and steps {1 / factor:.2g} "
            f"times as long: take a hess_init nearer to the median h = {hess:.2g}, and lr anew"
        )


def too_high_lr(groups: list[Group], signs: list[str]) -> str:
    """That it is, and by what this can be told."""
    peaks = [
        float(group.get("initial_lr", group["lr"])) for group in groups
    ]  # of a schedule, if there is one
    lrs = " and ".join(f"{lr:g}" for lr in dict.fromkeys(peaks))
    return f"lr = {lrs} is too high: {', '.join(signs)}; begin again with a lower one"


def _signs_of_divergence(found: Findings) -> Iterator[str]:
    if found.gain > (FAR_GAIN if found.layers > 1 else FAR_GAIN_ALONE):
        yield (
            f"the weights are far from any start (gain {found.gain:.2g} of the median layer, the rms of its "
            f"weights times the root of its inputs, where 0.5 to 1.5 are usual at first)"
        )
    if found.step_to_weight > LARGE_STEP:
        yield f"the steps of a layer are {found.step_to_weight:.0%} of its weights"
    if found.dead > DEAD:
        yield f"{found.dead:.0%} of the entries get no gradients any more, as if their units were dead"
