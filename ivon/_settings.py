"""Checks of what a user may set: one line that names the setting, its value and what is allowed."""

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from torch import Tensor

HESS_APPROXIMATIONS = ("price", "gradsq", "ggn")
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


def check_group(settings: Mapping[str, Any], capturable: bool = False) -> None:
    """Raise ValueError unless the settings of one parameter group make sense."""
    if capturable and isinstance(settings["lr"], Tensor) and settings["lr"].dim() == 0:
        settings = {**settings, "lr": settings["lr"].item()}
    for name, (allowed, holds) in _GROUP_RULES.items():
        _check(name, settings[name], allowed, holds)
    precision = settings["hess_init"] + settings["weight_decay"]
    if not precision > 0:
        raise ValueError(
            f"hess_init + weight_decay must be > 0, because it is the first posterior precision per example; "
            f"got {settings['hess_init']!r} + {settings['weight_decay']!r}"
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
