"""Algorithm 1 of the paper, line by line and in its letters: slow, plain, the oracle of the tests.

m mean, h Hessian diagonal, g gradient momentum, t steps done; lamda effective sample size, delta weight
decay, alpha learning rate, xi clip radius, sigma posterior standard deviation; a hat marks an estimate, a bar
the bias correction. The noise is an argument, nothing is changed in place, and any floating dtype works.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The constants of Algorithm 1; alpha may change from step to step and is an argument of `step`."""

    lamda: float
    h0: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99999
    delta: float = 1e-4
    xi: float = math.inf
    estimator: str = "price"  # Eq. 3; or "gradsq", which is in the released package and not in Algorithm 1
    debias: bool = True
    rescale: bool = True


@dataclass(frozen=True, kw_only=True)
class State:
    """What Algorithm 1 carries from step to step."""

    m: Tensor
    h: Tensor
    g: Tensor
    t: int


def init(m: Tensor, s: Settings) -> State:
    """State before the first step, for the mean `m` of any shape."""
    return State(m=m, h=torch.full_like(m, s.h0), g=torch.zeros_like(m), t=0)


def sigma(state: State, s: Settings) -> Tensor:
    """Posterior standard deviations (line 7)."""
    return 1 / torch.sqrt(s.lamda * (state.h + s.delta))


def step(
    state: State,
    gradients: Sequence[Callable[[Tensor], Tensor]],
    eps: Sequence[Tensor],
    s: Settings,
    *,
    alpha: float,
    weights: Sequence[float] | None = None,
) -> State:
    """One step from the draws k = 1..K, whose loss is the mean over micro-batch k.

    `gradients[k]` maps theta to the gradient of that loss, `eps[k]` is standard normal noise, and
    `weights[k]` is proportional to the size of the micro-batch (default: all equal).
    """
    m, h, g, t = state.m, state.h, state.g, state.t + 1
    w = torch.tensor(weights or [1.0] * len(eps), dtype=m.dtype)
    w = w / w.sum()

    ghat, hhat = torch.zeros_like(m), torch.zeros_like(m)
    for k in range(len(eps)):
        theta = m + sigma(state, s) * eps[k]  # 1
        ghat_k = gradients[k](theta)
        if s.estimator == "price":
            hhat_k = ghat_k * (theta - m) / sigma(state, s) ** 2  # 2
        else:
            hhat_k = s.lamda * ghat_k**2
        ghat, hhat = ghat + w[k] * ghat_k, hhat + w[k] * hhat_k

    g = s.beta1 * g + (1 - s.beta1) * ghat  # 3
    h = s.beta2 * h + (1 - s.beta2) * hhat + 0.5 * (1 - s.beta2) ** 2 * (h - hhat) ** 2 / (h + s.delta)  # 4
    gbar = g / (1 - s.beta1**t) if s.debias else g  # 5
    if s.rescale:
        alpha = (s.h0 + s.delta) * alpha
    m = m - alpha * torch.clip((gbar + s.delta * m) / (h + s.delta), -s.xi, s.xi)  # 6
    return State(m=m, h=h, g=g, t=t)  # 7: sigma follows from h
