"""VOGN and OGN (Osawa et al., 2019, Algorithm 1): a Gaussian posterior from gradients of single examples.

Usable with any network whose examples do not mix (torch.func says which do: batch normalisation does):

    optimizer = VOGN(model.parameters(), lr=1e-3, data_size=len(data))
    for x, y in batches:
        loss = optimizer.step(lambda: ivon.per_example_backward(model, criterion, x, y))
    with optimizer.sampled_params(generator):
        logits = model(x)  # of one posterior draw
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from baselines.draws import flat, keyed_generator, replaced, shaped
from baselines.method import Loss
from baselines.precision import as_statistic, statistics_loaded, zeros_like

TAU_START = 0.1  # where tau starts, as a part of its final value: Osawa et al. warm up from about there

# What the message says is allowed, and the test of it; NaN fails every comparison.
_RULES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "lr": (">= 0", lambda x: 0 <= x < math.inf),
    "data_size": ("> 0", lambda x: 0 < x < math.inf),
    "prior_precision": (">= 0", lambda x: 0 <= x < math.inf),
    "beta1": ("in [0, 1)", lambda x: 0 <= x < 1),
    "beta2": ("in (0, 1]", lambda x: 0 < x <= 1),
    "damping": (">= 0", lambda x: 0 <= x < math.inf),
    "data_factor": ("> 0", lambda x: 0 < x < math.inf),
    "tau": ("in (0, 1]", lambda x: 0 < x <= 1),
    "warmup_steps": (">= 0", lambda x: 0 <= x < math.inf),
}


class VOGN(torch.optim.Optimizer):
    """The parameters hold the mean mu of a Gaussian with variances 1 / (N (s + delta + gamma)).

    With N = data_factor * data_size, delta = tau * prior_precision / N, ghat and hhat the means over the
    mini-batch of the gradients and of their squares, averaged over `mc_samples` posterior draws:

        m <- beta1 m + ghat + delta mu                    (heavy ball: the sum of gradients, not their mean)
        s <- (1 - tau beta2) s + beta2 hhat               (as the source prints it)
        mu <- mu - lr m / (s + delta + gamma)

    At tau = 1 and gamma = 0 that is natural-gradient descent of N E[loss] + KL with the Gauss-Newton matrix
    for the Hessian; tau < 1 lowers the weight of the KL in the equation of the mean, and lets s settle at
    hhat / tau. s starts as hhat of one pass over the first mini-batch, at the mean.

    Arguments (all but the last two may differ between parameter groups):
        data_size: number of training examples.
        prior_precision: d of the prior N(0, 1/d).
        beta1: decay of the momentum.
        beta2: weight of the *new* curvature, where IVON's beta2 is that of the old one.
        damping: gamma; narrows the posterior, too.
        data_factor: rho; data augmentation makes the data set that much larger.
        tau: tempering, reached from TAU_START * tau in a straight line over the first `warmup_steps`.
        posterior: False for parameters that get the same step without noise and without prior, as those of
            batch normalisation in the source; they need a damping.
        mc_samples: K, draws in a step; 0 computes the gradient at the mean, which is OGN.
        seed: of the noise, which is a function of it and of the number of the step.

    In a process group each rank draws its own noise, and gradients and squares are averaged over ranks.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        data_size: float,
        *,
        prior_precision: float = 1.0,
        beta1: float = 0.9,
        beta2: float = 0.999,
        damping: float = 0.0,
        data_factor: float = 1.0,
        tau: float = 1.0,
        warmup_steps: int = 0,
        posterior: bool = True,
        mc_samples: int = 1,
        seed: int = 0,
    ) -> None:
        if isinstance(mc_samples, bool) or not isinstance(mc_samples, int) or mc_samples < 0:
            raise ValueError(
                f"mc_samples must be an integer >= 0 (0: gradients at the mean), got {mc_samples!r}"
            )
        group = {
            "lr": lr,
            "data_size": data_size,
            "prior_precision": prior_precision,
            "beta1": beta1,
            "beta2": beta2,
            "damping": damping,
            "data_factor": data_factor,
            "tau": tau,
            "warmup_steps": warmup_steps,
            "posterior": posterior,
        }
        # The numbers that say which noise comes next are in the groups, so that checkpoints have them.
        super().__init__(params, {**group, "seed": seed, "step": 0})
        self.mc_samples = mc_samples

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own; what is not given is the constructor's."""
        settings = {**self.defaults, **param_group}
        for name, (allowed, holds) in _RULES.items():
            if not holds(settings[name]):
                raise ValueError(f"{name} must be {allowed}, got {settings[name]}")
        if not settings["damping"] + settings["prior_precision"] * settings["posterior"] > 0:
            raise ValueError("damping must be > 0 for parameters without a prior, got 0: s may be 0")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        """One update; returns the mean of the losses over the draws.

        `closure` sets `p.grad` and `p.squared_grad` and returns the loss (`ivon.per_example_backward`); it is
        called `mc_samples` times, and once more at the beginning, for the first s.
        """
        params = self._params()
        fresh = [i for i, p in enumerate(params) if p not in self.state]
        if fresh:
            _, squares = self._evaluate(closure, params)
            for i in fresh:
                curvature = squares[len(params) + i].clone()
                self.state[params[i]] = {"momentum": zeros_like(params[i]), "curvature": curvature}
        total, sums = self._evaluate_draw(closure, params, 0)
        for k in range(1, self.mc_samples):
            loss, more = self._evaluate_draw(closure, params, k)
            total = total + loss
            torch._foreach_add_(sums, more)
        draws = max(self.mc_samples, 1)
        if draws > 1:
            torch._foreach_div_(sums, draws)
        grads, squares = sums[: len(params)], sums[len(params) :]
        found = dict(zip(params, zip(grads, squares, strict=True), strict=True))
        for group in self.param_groups:
            self._update(group, found)
        return total / draws

    @contextmanager
    def sampled_params(self, generator: torch.Generator) -> Iterator[None]:
        """In the context the parameters are a draw from the posterior, then its mean again, bit for bit."""
        groups = [group for group in self.param_groups if group["posterior"] and _trainable(group)]
        if any(p not in self.state for group in groups for p in _trainable(group)):
            raise RuntimeError("VOGN has no posterior before its first step: s comes from a mini-batch")
        if not groups:
            yield
            return
        params = [p for group in groups for p in _trainable(group)]
        stds = torch.cat([self._std(group) for group in groups])
        noise = torch.randn(stds.shape, generator=generator, device=stds.device, dtype=stds.dtype)
        with replaced(params, flat(params).addcmul_(noise, stds)):
            yield

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; statistics keep the precision that they were saved in."""
        with statistics_loaded(self):
            super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles are made of this; torch's has only what all optimizers have.
        return {**super().__getstate__(), "mc_samples": self.mc_samples}

    def _evaluate_draw(
        self, closure: Callable[[], Tensor], params: list[Tensor], k: int
    ) -> tuple[Tensor, list[Tensor]]:
        if self.mc_samples == 0:
            return self._evaluate(closure, params)
        first = self.param_groups[0]
        generator = keyed_generator(params[0].device, first["seed"], "step", first["step"], k, _rank())
        with self.sampled_params(generator):
            return self._evaluate(closure, params)

    def _evaluate(self, closure: Callable[[], Tensor], params: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The loss, and the gradients of all parameters followed by the squares, as means over all ranks."""
        for p in params:
            p.grad = p.squared_grad = None  # type: ignore[attr-defined]
        with torch.enable_grad():
            loss = closure()
        squares = [getattr(p, "squared_grad", None) for p in params]
        found = [as_statistic(t) for t in (*(p.grad for p in params), *squares) if t is not None]
        if len(found) < 2 * len(params):
            raise RuntimeError(
                "VOGN.step(closure) needs gradients of single examples: let the closure call "
                "ivon.per_example_backward(model, criterion, inputs, targets)"
            )
        for p in params:
            p.squared_grad = None  # type: ignore[attr-defined]
        if _in_group():
            mean = flat(found)
            dist.all_reduce(mean)
            found = shaped(mean / dist.get_world_size(), found)
        return loss.detach(), found

    def _update(self, group: dict[str, Any], found: dict[Tensor, tuple[Tensor, Tensor]]) -> None:
        params = _trainable(group)
        delta, tau = _delta(group), _tau(group)
        group["step"] += 1
        if not params:
            return
        momentum = [self.state[p]["momentum"] for p in params]
        curvature = [self.state[p]["curvature"] for p in params]
        grads, squares = (list(each) for each in zip(*(found[p] for p in params), strict=True))
        torch._foreach_mul_(momentum, group["beta1"])
        torch._foreach_add_(momentum, grads)
        torch._foreach_add_(momentum, params, alpha=delta)
        torch._foreach_mul_(curvature, 1 - tau * group["beta2"])
        torch._foreach_add_(curvature, squares, alpha=group["beta2"])
        precision = torch._foreach_add(curvature, delta + group["damping"])
        torch._foreach_addcdiv_(params, momentum, precision, value=-group["lr"])

    def _std(self, group: dict[str, Any]) -> Tensor:
        """Posterior standard deviations of a group's trainable parameters, one after the other."""
        curvature = flat([self.state[p]["curvature"] for p in _trainable(group)])
        size = group["data_size"] * group["data_factor"]
        return curvature.add_(_delta(group) + group["damping"]).mul_(size).rsqrt_()

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in _trainable(group)]


class VariationalOnlineGaussNewton:
    """VOGN behind the verbs of a method; with `mc_samples=0` OGN, whose predictive draws are all its mean."""

    reduces_gradients = True

    def __init__(self, network: nn.Module, optimizer: VOGN) -> None:
        self.optimizer = optimizer
        self._network = network

    def step(self, loss: Loss) -> Tensor:
        loss.check_undivided("VOGN" if self.optimizer.mc_samples else "OGN")
        return self.optimizer.step(lambda: loss.per_example_backward(self._network))

    def begin_epoch(self, epoch: int, epochs: int, steps: int) -> None:
        pass

    def draw(self, k: int, generator: torch.Generator) -> AbstractContextManager[None]:
        if k == 0 or self.optimizer.mc_samples == 0:
            return nullcontext()
        return self.optimizer.sampled_params(generator)

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])


def weights_and_norms(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters of layers with weights, and those of normalisations.

    A normalisation is a layer whose own parameters are numbers for each channel and nothing else.
    """
    norms = {
        p
        for module in model.modules()
        if all(p.dim() <= 1 for p in module.parameters(recurse=False))
        for p in module.parameters(recurse=False)
    }
    params = list(model.parameters())
    return [p for p in params if p not in norms], [p for p in params if p in norms]


def _trainable(group: dict[str, Any]) -> list[Tensor]:
    return [p for p in group["params"] if p.requires_grad]


def _tau(group: dict[str, Any]) -> float:
    if group["step"] >= group["warmup_steps"]:
        return group["tau"]
    return group["tau"] * (TAU_START + (1 - TAU_START) * group["step"] / group["warmup_steps"])


def _delta(group: dict[str, Any]) -> float:
    """Precision of the tempered prior for each example: tau d / N; 0 where there is no prior."""
    size = group["data_size"] * group["data_factor"]
    return _tau(group) * group["prior_precision"] / size if group["posterior"] else 0.0


def _in_group() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _rank() -> int:
    return dist.get_rank() if _in_group() else 0
