"""Numbers that tell how the state of an IVON is, from one pass over it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median_low

import torch
from torch import Tensor

from ivon._shards import local
from ivon._state import Group, State, after_decay, momentum_weight
from ivon.optimizer import IVON

_CHUNK = 2**20  # entries that are looked at together, which bounds the memory
_SETTLED = 100  # steps after which they tell of the training, not of weights that start at 0
_DEAD = 1e-6  # of the largest momentum: 0.9^131, what is left of it after as many gradients of 0
_LEAST_GAIN = 0.1  # of the weights that a step is compared with: those of small layers may end at 0


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
    gain: the median, over the parameters of two dimensions or more, of the root mean square of the mean times
        the root of the number of inputs (the longest dimension after the first): at first 0.5 to 1.5.
    layers: how many parameters the median is of.
    step_to_weight: the largest, over these parameters after 100 steps, of the ratio of the root mean squares
        of the step from this state and of the mean.
    dead: share of entries of parameters after 100 steps that have next to no momentum beside the others.
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
    gain: float
    layers: int
    step_to_weight: float
    dead: float
    nonfinite: float


@dataclass
class Part:
    """Sums over at most _CHUNK entries of one parameter, and every n-th of these entries."""

    of: int  # the same number for all parts of a parameter
    inputs: int  # of the layer, 0 for parameters of one dimension
    entries: int
    steps: int
    noise_square: float
    weight_square: float
    step_square: float
    momentum_square: float
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

    inputs = max(param.shape[1:], default=0)
    columns = here.split(_CHUNK), column("residual", 0), column("hess", group["hess_init"])
    for rounded, residual, hess, momentum in zip(*columns, column("momentum", 0), strict=True):
        mean = rounded.to(dtype) + residual
        hess = after_decay(hess, group)
        sigma = ((hess + delta) * group["ess"]).rsqrt()
        gradient = momentum / momentum_weight(state, group["beta1"]) if ivon.debias and steps else momentum
        step = (gradient + delta * mean) / (hess + delta)
        masks = {
            "clipped": step.abs() >= group["clip_radius"],
            "negative": hess < 0,
            "floored": hess + delta <= 4 * max(torch.finfo(dtype).eps * delta, torch.finfo(dtype).tiny),
            "unresolved": sigma < 0.5 * torch.finfo(param.dtype).eps * mean.abs(),
            "nonfinite": ~(hess + momentum + mean).isfinite(),
        }
        counts = torch.stack([mask.count_nonzero() for mask in masks.values()]).tolist()
        sampled = hess[::every].cpu()
        step.clamp_(-group["clip_radius"], group["clip_radius"])
        norms = torch.stack([torch.linalg.vector_norm(x) for x in (sigma, mean, step, gradient)]).tolist()
        noise_square, weight_square, step_square, momentum_square = (_square(norm) for norm in norms)
        yield Part(
            of=id(param),
            inputs=inputs,
            entries=len(mean),
            steps=steps,
            noise_square=noise_square,
            weight_square=weight_square,
            step_square=step_square * lr**2,
            momentum_square=momentum_square,
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
    params = _params_of(parts)
    gains = [_rms(p.weight_square, p) * math.sqrt(p.inputs) for p in params if p.inputs]
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
        gain=median_low(gains) if gains else math.nan,
        layers=len(gains),
        step_to_weight=_step_to_weight(params),
        dead=_dead(params) / entries if entries else math.nan,
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


def _params_of(parts: list[Part]) -> list[Part]:
    """The sums over whole parameters that have entries here."""
    params: dict[int, Part] = {}
    for part in parts:
        if part.entries and part.of in params:
            whole = params[part.of]
            sums = {name: getattr(whole, name) + getattr(part, name) for name in _SUMS}
            params[part.of] = replace(whole, **sums)
        elif part.entries:
            params[part.of] = part
    return list(params.values())


_SUMS = ("entries", "weight_square", "step_square", "momentum_square")


def _step_to_weight(params: list[Part]) -> float:
    ratios = [
        _rms(p.step_square, p) / max(_rms(p.weight_square, p), _LEAST_GAIN / math.sqrt(p.inputs))
        for p in params
        if p.inputs and p.steps >= _SETTLED
    ]
    return max(ratios, default=0.0)


def _dead(params: list[Part]) -> int:
    largest = max((_rms(p.momentum_square, p) for p in params), default=0.0)
    settled = [p for p in params if p.steps >= _SETTLED]
    return sum(p.entries for p in settled if _rms(p.momentum_square, p) < _DEAD * largest)


def _rms(square: float, part: Part) -> float:
    return math.sqrt(square / part.entries)


def _square(norm: float) -> float:
    """Infinite where it is too large for a number."""
    return norm * norm


def _quantiles(samples: list[Tensor], at: tuple[float, ...]) -> list[float]:
    flat = torch.cat([sample.double() for sample in samples]) if samples else torch.empty(0)
    if not flat.numel():
        return [math.nan] * len(at)
    return torch.quantile(flat, flat.new_tensor(at)).tolist()
