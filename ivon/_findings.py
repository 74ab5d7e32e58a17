"""Numbers that tell how the state of an IVON is, from one pass over it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ivon._shards import local
from ivon._state import Group, State, after_decay, momentum_weight
from ivon.optimizer import IVON

_CHUNK = 2**20  # entries that are looked at together, which bounds the memory


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the state says of the trainable parameters of a group, or of all. NaN where there are none.

    entries: how many numbers these parameters have.
    steps: steps done; the most of any parameter.
    effective_lr: the median entry's lr (h0 + delta) / (h + delta), without `rescale_lr` lr / (h + delta):
        what its momentum is multiplied by in a step that is not clipped.
    hess_change: the median of |h - h0| / (h0 + delta); 0 while the posterior has its initial width.
    hess_low, hess_median, hess_high: quantiles at 5, 50 and 95 % of (h - h0) / (h0 + delta).
    noise_rms, weight_rms: root mean squares of sigma and of the mean; noise_to_weight: their ratio.
    clipped: share of entries whose step from this state would be clipped.
    negative: share of entries with h < 0; h + delta is positive all the same.
    floored: share of entries where h + delta is positive only because rounding is not let past zero.
    unresolved: share of entries with a sigma below half a unit in the last place of their parameter.
    nonfinite: share of entries whose Hessian, momentum or mean is infinite or NaN.
    """

    entries: int
    steps: int
    effective_lr: float
    hess_change: float
    hess_low: float
    hess_median: float
    hess_high: float
    noise_rms: float
    weight_rms: float
    noise_to_weight: float
    clipped: float
    negative: float
    floored: float
    unresolved: float
    nonfinite: float


@dataclass
class Part:
    """Sums over at most _CHUNK entries of one parameter, and every n-th of these entries."""

    entries: int
    steps: int
    noise_square: float
    weight_square: float
    counts: dict[str, int]
    change: Tensor  # (h - h0) / (h0 + delta)
    step_lr: Tensor


def parts_of(ivon: IVON, group: Group, param: Tensor, every: int) -> Iterator[Part]:
    """The parts of one parameter, with every `every`-th entry for the quantiles."""
    state: State = ivon.state.get(param, {})  # not made here: asking must not change what a checkpoint has
    steps = int(state.get("step", 0))
    delta, start = group["weight_decay"], group["hess_init"] + group["weight_decay"]
    lr = float(group["lr"]) * (start if ivon.rescale_lr else 1.0)
    here = local(param.detach()).reshape(-1)
    dtype = torch.promote_types(here.dtype, torch.float32)

    def column(name: str, default: float) -> tuple[Tensor, ...]:
        if name not in state:
            return torch.tensor(default, dtype=dtype, device=here.device).expand(len(here)).split(_CHUNK)
        # The state follows a model that was moved or converted at the next draw only.
        return local(state[name]).to(here.device, dtype).reshape(-1).split(_CHUNK)

    columns = here.split(_CHUNK), column("residual", 0), column("hess", group["hess_init"])
    for rounded, residual, hess, momentum in zip(*columns, column("momentum", 0), strict=True):
        mean = rounded.to(dtype) + residual
        hess = after_decay(hess, group)
        sigma = ((hess + delta) * group["ess"]).rsqrt()
        gradient = momentum / momentum_weight(state, group["beta1"]) if ivon.debias and steps else momentum
        masks = {
            "clipped": ((gradient + delta * mean) / (hess + delta)).abs() >= group["clip_radius"],
            "negative": hess < 0,
            "floored": hess + delta <= 4 * max(torch.finfo(dtype).eps * delta, torch.finfo(dtype).tiny),
            "unresolved": sigma < 0.5 * torch.finfo(param.dtype).eps * mean.abs(),
            "nonfinite": ~(hess + momentum + mean).isfinite(),
        }
        counts = torch.stack([mask.count_nonzero() for mask in masks.values()]).tolist()
        sampled = hess[::every].cpu()
        yield Part(
            entries=len(mean),
            steps=steps,
            noise_square=float(torch.linalg.vector_norm(sigma)) ** 2,
            weight_square=float(torch.linalg.vector_norm(mean)) ** 2,
            counts=dict(zip(masks, counts, strict=True)),
            change=(sampled - group["hess_init"]) / start,
            step_lr=lr / (sampled + delta),
        )


def findings_of(parts: list[Part]) -> Findings:
    """What parts of any number of parameters tell together."""
    entries = sum(part.entries for part in parts)
    change = _quantiles([part.change for part in parts], (0.05, 0.5, 0.95))
    noise_rms, weight_rms, ratio = noise_of(parts)
    shares = {
        name: sum(part.counts[name] for part in parts) / entries if entries else math.nan
        for name in ("clipped", "negative", "floored", "unresolved", "nonfinite")
    }
    return Findings(
        entries=entries,
        steps=max((part.steps for part in parts), default=0),
        effective_lr=_quantiles([part.step_lr for part in parts], (0.5,))[0],
        hess_change=_quantiles([part.change.abs() for part in parts], (0.5,))[0],
        hess_low=change[0],
        hess_median=change[1],
        hess_high=change[2],
        noise_rms=noise_rms,
        weight_rms=weight_rms,
        noise_to_weight=ratio,
        **shares,
    )


def noise_of(parts: list[Part]) -> tuple[float, float, float]:
    """Root mean squares of sigma and of the mean, and their ratio."""
    entries = sum(part.entries for part in parts)
    if not entries:
        return math.nan, math.nan, math.nan
    noise = math.sqrt(sum(part.noise_square for part in parts) / entries)
    weight = math.sqrt(sum(part.weight_square for part in parts) / entries)
    return noise, weight, noise / weight if weight else math.inf


def _quantiles(samples: list[Tensor], at: tuple[float, ...]) -> list[float]:
    flat = torch.cat([sample.double() for sample in samples]) if samples else torch.empty(0)
    if not flat.numel():
        return [math.nan] * len(at)
    return torch.quantile(flat, flat.new_tensor(at)).tolist()
