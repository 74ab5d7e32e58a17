"""What is out of range among the findings, and what to do about it, in plain words."""

import math
from collections.abc import Iterator

from ivon._findings import Findings
from ivon._state import Group
from ivon.suggest import beta2_for

# Beyond these there is a warning. They are ours; the paper's settings lie within, as noted.
UNMOVED = 0.1  # of hess_init's weight the paper's runs forget 63 % (GPT-2) to 86 % (CIFAR)
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
    moved = found.hess_change >= UNMOVED
    run, beta2 = total_steps or found.steps, group["beta2"]
    if run and not moved and 1 - beta2**run < UNMOVED:
        fit = beta2_for(run)
        yield (
            f"the Hessian {'will hardly move' if total_steps else 'has hardly moved'}: after {run:,} steps "
            f"{beta2**run:.0%} of hess_init are left, as beta2 = {beta2:.9g} averages over 1 / (1 - beta2) = "
            f"{1 / (1 - beta2):,.0f} steps; train longer"
            + (f", or take a beta2 of about {fit:.9g}" if fit < beta2 else "")
        )
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
