"""Checks of what a user may set: one line that names the setting, its value and what is allowed."""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

from torch import Tensor

HESS_APPROXIMATIONS = ("price", "gradsq", "ggn")
BETAS = {"beta1": 0.9, "beta2": 0.99999}  # and what they are where nothing is given
# In a parameter group: beta1 and beta2 when they and `betas` last agreed.
AGREED = "agreed_betas"
# Of the whole optimizer; torch.optim has all settings in `defaults` and copies them into every group.
OF_ALL_GROUPS = ("mc_samples", "hess_approx", "sync", "debias", "rescale_lr", "capturable")
REDUCTIONS = ("mean", "sum")  # of the gradients of several draws

# Per parameter group: what the message says is allowed, and the test of it. NaN fails every comparison.
_GROUP_RULES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "lr": ("a finite number >= 0", lambda x: 0 <= x < math.inf),
    "ess": ("a finite number > 0 (usually the number of training examples)", lambda x: 0 < x < math.inf),
    "hess_init": ("a finite number", math.isfinite),
    "beta1": ("a number in [0, 1)", lambda x: 0 <= x < 1),
    "beta2": ("a number in [0, 1)", lambda x: 0 <= x < 1),
    "weight_decay": ("a finite number >= 0", lambda x: 0 <= x < math.inf),
    "clip_radius": ("a number > 0 (inf: no clipping)", lambda x: x > 0),
}


def check_group(settings: Mapping[str, Any]) -> None:
    """Raise ValueError unless the settings of one parameter group make sense."""
    if isinstance(lr := settings["lr"], Tensor):
        if lr.numel() != 1 or not lr.is_floating_point():
            raise ValueError(
                f"lr must be a finite number >= 0 or a floating-point tensor of one, "
                f"got {lr.dtype} of shape {tuple(lr.shape)}"
            )
        settings = {**settings, "lr": lr.item()}
    for name, (allowed, holds) in _GROUP_RULES.items():
        _check(name, settings[name], allowed, holds)
    precision = settings["hess_init"] + settings["weight_decay"]
    if not precision > 0:
        raise ValueError(
            f"hess_init + weight_decay must be > 0, because it is the first posterior precision per example; "
            f"got {settings['hess_init']!r} + {settings['weight_decay']!r}"
        )


def with_betas(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, with `betas`, Adam's name of the pair, as `beta1` and `beta2`."""
    betas = given.get("betas")
    if betas is None:
        return dict(given)
    if not isinstance(betas, list | tuple) or len(betas) != 2:
        raise ValueError(f"betas must be a pair of numbers in [0, 1), got {betas!r}")
    pair = dict(zip(BETAS, betas, strict=True))
    for name, value in pair.items():
        if given.get(name, BETAS[name]) not in (BETAS[name], value):
            raise ValueError(f"{name} must be given once, got {given[name]!r} and betas = {betas!r}")
    return {**given, **pair}


def follow_betas(group: dict[str, Any]) -> None:
    """Let `betas` and `beta1`, `beta2` of a group agree on what was set last; both at once: on `betas`.

    Schedulers that cycle the momentum know it as the first of Adam's `betas`.
    """
    pair = (group["beta1"], group["beta2"])
    betas = tuple(group.get("betas") or pair)
    agreed = tuple(group.get(AGREED) or betas)
    if betas == pair == agreed and group.get("betas"):
        return
    if betas != agreed:
        pair = betas
    for name, value in zip(BETAS, pair, strict=True):
        allowed, holds = _GROUP_RULES[name]
        _check(name, value, allowed, holds)
        group[name] = float(value)
    group["betas"] = group[AGREED] = (group["beta1"], group["beta2"])


def check_same(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise ValueError if a parameter group has another value for what is of the whole optimizer."""
    for name in OF_ALL_GROUPS:
        if name in given and given[name] != defaults[name]:
            raise ValueError(
                f"{name} must be the same for all parameter groups, so it is given to IVON(...): "
                f"got {given[name]!r} in a group and {defaults[name]!r}"
            )


def without_prior(groups: Sequence[Mapping[str, Any]]) -> str:
    """What to say of groups whose weight_decay is 0; nothing, if there are none."""
    numbers = [
        str(i)
        for i, group in enumerate(groups)
        if group["weight_decay"] == 0 and any(param.requires_grad for param in group["params"])
    ]
    if not numbers:
        return ""
    plural = "s" if len(numbers) > 1 else ""
    return (
        f"weight_decay is 0 in parameter group{plural} {', '.join(numbers)}: that is no proper prior, and "
        f"nothing bounds the noise of weights of which the data say little. A small one will do: "
        f"for group in optimizer.param_groups: group['weight_decay'] = group['weight_decay'] or 1e-4. "
        f"(Hugging Face's Trainer sets 0 for biases and norms with optimizer_cls_and_kwargs; write "
        f"optimizers=(ivon.IVON(model.parameters(), ...), None) instead.)"
    )


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same with numbers of Python's own: others (NumPy's) would be in checkpoints, as code to run."""
    return {
        name: float(value)
        if name in _GROUP_RULES and isinstance(value, Real) and type(value) not in (int, float)
        else value
        for name, value in settings.items()
    }


def check_optimizer(mc_samples: Any, hess_approx: Any) -> None:
    """Raise ValueError unless the settings shared by all parameter groups make sense."""
    if isinstance(mc_samples, bool) or not isinstance(mc_samples, int) or mc_samples < 1:
        raise ValueError(f"mc_samples must be an integer >= 1, got {mc_samples!r}")
    if hess_approx not in HESS_APPROXIMATIONS:
        raise ValueError(f"hess_approx must be one of {', '.join(HESS_APPROXIMATIONS)}; got {hess_approx!r}")


def check_weight(weight: Any) -> None:
    """Raise ValueError unless `weight` can be the weight of a draw."""
    _check("weight", weight, "a finite number > 0", lambda x: 0 < x < math.inf)


def check_reduction(reduction: Any) -> None:
    """Raise ValueError unless draws of a step can be put together so."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}; got {reduction!r}")


def _check(name: str, value: Any, allowed: str, holds: Callable[[float], bool]) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not holds(float(value)):
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
