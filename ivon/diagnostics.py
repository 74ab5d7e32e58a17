"""Is IVON set up well? Numbers from its state, at any time of a training, and warnings in plain words."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import nn

from ivon import _loss_history
from ivon._findings import Findings, findings_of, noise_of, parts_of
from ivon._shards import local
from ivon._state import trainable
from ivon._warnings import too_high_lr, warnings_of
from ivon.optimizer import IVON
from ivon.wrappers import find_ivon

_SAMPLED = 2**16  # entries at most for the quantiles, which need a sort; standard error 0.2 % of the ranks


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Findings in total and per parameter group, and in words what is out of range.

    `tensors` has the noise-to-weight ratio of each parameter, infinite for weights that are all 0.
    """

    total: Findings
    groups: tuple[Findings, ...]
    tensors: dict[str, float] = field(repr=False)
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
    "gain of a layer, median": lambda f: f"{f.gain:.3g}",
    "step / weights of a layer, most": lambda f: f"{f.step_to_weight:.3g}",
    "without gradients": lambda f: f"{f.dead:.2%}",
    "steps that would be clipped": lambda f: f"{f.clipped:.2%}",
    "h < 0": lambda f: f"{f.negative:.2%}",
    "h + delta at the floor": lambda f: f"{f.floored:.2%}",
    "noise lost to rounding": lambda f: f"{f.unresolved:.2%}",
}


@torch.no_grad()
def diagnose(
    optimizer: Any,
    model: nn.Module | None = None,
    *,
    total_steps: int | None = None,
    losses: Iterable[float] | None = None,
) -> Diagnosis:
    """What the state of an IVON, or of the one in a wrapper, tells of its settings.

    To be called at any time but within `sampled_params`: before the first step it says whether the noise of
    the first draws fits the weights, later what the posterior has learned. `model` lends the tensors their
    names. beta2 is judged against `total_steps`, the planned number of steps; without it as if training
    ended now. One pass over the state; quantiles of more than 65,536 entries are those of every n-th.
    Of sharded parameters only this process's part is looked at.

    A learning rate that is too high comes first among the warnings, and what follows from it is left out.
    The state shows it where weights or steps have become large, or units died. A training that has got
    nowhere without any of these is seen by its `losses` alone: numbers from the first step on, of every
    step, or averages.

    Example: `print(ivon.diagnose(optimizer, model, total_steps=epochs * len(loader), losses=losses))`.
    """
    if total_steps is not None and total_steps < 1:
        raise ValueError(f"total_steps must be >= 1, got {total_steps!r}")
    history = None if losses is None else _loss_history.too_high(_loss_history.checked(losses))
    ivon = find_ivon(optimizer)
    ivon._forbid_within("diagnose()")  # there the parameters are a draw and not the mean
    ivon._note_steps()  # with capturable=True they are elsewhere
    groups = ivon.param_groups
    entries = sum(local(param).numel() for group in groups for param in trainable(group))
    every = max(1, math.ceil(entries / _SAMPLED))
    measured = [[list(parts_of(ivon, group, p, every)) for p in trainable(group)] for group in groups]
    findings = tuple(findings_of(list(chain(*tensors))) for tensors in measured)
    warnings = [] if history is None else [too_high_lr(groups, [history])]
    for i, (found, group) in enumerate(zip(findings, groups, strict=True)):
        prefix = f"group {i}: " if len(groups) > 1 else ""
        warnings += [prefix + text for text in warnings_of(found, group, total_steps)]
    everything = list(chain(*measured))
    return Diagnosis(
        total=findings[0] if len(findings) == 1 else findings_of(list(chain(*everything))),
        groups=findings,
        tensors={n: noise_of(parts)[2] for n, parts in zip(_names(ivon, model), everything, strict=True)},
        warnings=warnings,
    )


def _names(ivon: IVON, model: nn.Module | None) -> Iterator[str]:
    """A name for each trainable parameter: the model's, the one the optimizer was given, or a number."""
    names = {} if model is None else {id(param): name for name, param in model.named_parameters()}
    for i, group in enumerate(ivon.param_groups):
        given = group.get("param_names") or [f"group {i}, parameter {j}" for j in range(len(group["params"]))]
        for param, name in zip(group["params"], given, strict=True):
            if param.requires_grad:
                yield names.get(id(param), name)
