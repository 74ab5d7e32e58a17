"""Is IVON set up well? Numbers from its state, at any time of a training, and warnings in plain words."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ivon._shards import local
from ivon._state import Group, State, trainable
from ivon.optimizer import IVON
from ivon.suggest import beta2_for
from ivon.wrappers import find_ivon

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

_SAMPLED = 2**16  # entries at most for the quantiles, which need a sort; standard error 0.2 % of the ranks
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


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Findings in total and per parameter group, and in words what is out of range.

    `tensors` has the noise-to-weight ratio of each parameter, infinite for weights that are all 0.
    """

    total: Findings
    groups: tuple[Findings, ...]
    tensors: dict[str, float]
    warnings: list[str]

    def as_dict(self) -> dict[str, float]:
        """The findings for a logger, named `total/clipped`, `group0/clipped`, ..."""
        parts = {"total": self.total, **{f"group{i}": found for i, found in enumerate(self.groups)}}
        return {f"{part}/{name}": float(x) for part, f in parts.items() for name, x in asdict(f).items()}

    def __str__(self) -> str:
        """A table of the findings, the three noisiest tensors, the warnings."""
        parts = {f"group {i}": found for i, found in enumerate(self.groups)} if len(self.groups) > 1 else {}
        parts["total"] = self.total
        rows = [("", list(parts))]
        rows += [(label, [show(found) for found in parts.values()]) for label, show in _ROWS.items()]
        lines = [f"{label:36}" + "".join(f"{cell:>14}" for cell in cells) for label, cells in rows]
        noisiest = sorted(self.tensors.items(), key=lambda item: -item[1])[:3]
        lines += [f"{name}: noise / weights {ratio:.3g}" for name, ratio in noisiest]
        return "\n".join(lines + ([f"WARNING: {text}" for text in self.warnings] or ["no warnings"]))


_ROWS: dict[str, Callable[[Findings], str]] = {
    "trainable entries": lambda f: f"{f.entries:,}",
    "steps done": lambda f: f"{f.steps:,}",
    "effective lr, median": lambda f: f"{f.effective_lr:.3g}",
    "|h - h0| / (h0 + delta), median": lambda f: f"{f.hess_change:.3g}",
    "(h - h0) / (h0 + delta), 5 %": lambda f: f"{f.hess_low:+.3g}",
    "                         50 %": lambda f: f"{f.hess_median:+.3g}",
    "                         95 %": lambda f: f"{f.hess_high:+.3g}",
    "noise (sigma), rms": lambda f: f"{f.noise_rms:.3g}",
    "noise / weights, rms": lambda f: f"{f.noise_to_weight:.3g}",
    "steps that would be clipped": lambda f: f"{f.clipped:.2%}",
    "h < 0": lambda f: f"{f.negative:.2%}",
    "h + delta at the floor": lambda f: f"{f.floored:.2%}",
    "noise lost to rounding": lambda f: f"{f.unresolved:.2%}",
}


@torch.no_grad()
def diagnose(optimizer: Any, model: nn.Module | None = None, *, total_steps: int | None = None) -> Diagnosis:
    """What the state of an IVON, or of the one in a wrapper, tells of its settings.

    To be called at any time but within `sampled_params`: before the first step it says whether the noise of
    the first draws fits the weights, later what the posterior has learned. `model` lends the tensors their
    names. beta2 is judged against `total_steps`, the planned number of steps; without it as if training
    ended now. One pass over the state; quantiles of more than 65,536 entries are those of every n-th.
    Of sharded parameters only this process's part is looked at.

    Example: `print(ivon.diagnose(optimizer, model, total_steps=epochs * len(loader)))`.
    """
    if total_steps is not None and total_steps < 1:
        raise ValueError(f"total_steps must be >= 1, got {total_steps!r}")
    ivon = find_ivon(optimizer)
    ivon._forbid_within("diagnose()")  # there the parameters are a draw and not the mean
    groups = ivon.param_groups
    entries = sum(local(param).numel() for group in groups for param in trainable(group))
    every = max(1, math.ceil(entries / _SAMPLED))
    measured = [[list(_parts(ivon, group, p, every)) for p in trainable(group)] for group in groups]
    findings = tuple(_findings(list(chain(*tensors))) for tensors in measured)
    warnings: list[str] = []
    for i, (found, group) in enumerate(zip(findings, groups, strict=True)):
        prefix = f"group {i}: " if len(groups) > 1 else ""
        warnings += [prefix + text for text in _warnings(found, group, total_steps)]
    everything = list(chain(*measured))
    return Diagnosis(
        total=findings[0] if len(findings) == 1 else _findings(list(chain(*everything))),
        groups=findings,
        tensors={n: _noise(parts)[2] for n, parts in zip(_names(ivon, model), everything, strict=True)},
        warnings=warnings,
    )


@dataclass
class _Part:
    """Sums over at most _CHUNK entries of one parameter, and every n-th of these entries."""

    entries: int
    steps: int
    noise_square: float
    weight_square: float
    counts: dict[str, int]
    change: Tensor  # (h - h0) / (h0 + delta)
    step_lr: Tensor


def _parts(ivon: IVON, group: Group, param: Tensor, every: int) -> Iterator[_Part]:
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
        sigma = ((hess + delta) * group["ess"]).rsqrt()
        gradient = momentum / (1 - group["beta1"] ** steps) if ivon.debias and steps else momentum
        masks = {
            "clipped": ((gradient + delta * mean) / (hess + delta)).abs() >= group["clip_radius"],
            "negative": hess < 0,
            "floored": hess + delta <= 4 * max(torch.finfo(dtype).eps * delta, torch.finfo(dtype).tiny),
            "unresolved": sigma < 0.5 * torch.finfo(param.dtype).eps * mean.abs(),
            "nonfinite": ~(hess + momentum + mean).isfinite(),
        }
        counts = torch.stack([mask.count_nonzero() for mask in masks.values()]).tolist()
        sampled = hess[::every].cpu()
        yield _Part(
            entries=len(mean),
            steps=steps,
            noise_square=float(torch.linalg.vector_norm(sigma)) ** 2,
            weight_square=float(torch.linalg.vector_norm(mean)) ** 2,
            counts=dict(zip(masks, counts, strict=True)),
            change=(sampled - group["hess_init"]) / start,
            step_lr=lr / (sampled + delta),
        )


def _findings(parts: list[_Part]) -> Findings:
    entries = sum(part.entries for part in parts)
    change = _quantiles([part.change for part in parts], (0.05, 0.5, 0.95))
    noise_rms, weight_rms, ratio = _noise(parts)
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


def _noise(parts: list[_Part]) -> tuple[float, float, float]:
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
    return torch.quantile(flat, torch.tensor(at, dtype=flat.dtype)).tolist()


def _names(ivon: IVON, model: nn.Module | None) -> Iterator[str]:
    """A name for each trainable parameter: the model's, the one the optimizer was given, or a number."""
    names = {} if model is None else {id(param): name for name, param in model.named_parameters()}
    for i, group in enumerate(ivon.param_groups):
        given = group.get("param_names") or [f"group {i}, parameter {j}" for j in range(len(group["params"]))]
        for param, name in zip(group["params"], given, strict=True):
            if param.requires_grad:
                yield names.get(id(param), name)


def _warnings(found: Findings, group: Group, total_steps: int | None) -> Iterator[str]:
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
