"""Bayes by Backprop (Blundell et al., 2015): a Gaussian of each weight, learned by gradients at its draws.

q = N(mu, softplus(rho)^2) minimises E_q[lbar] + (temperature / N) KL(q || p) with p = N(0, 1 / precision).
No layer is rewritten: a draw is put into the parameters, and the chain rule turns the gradient found there
into those of mu and rho, so that any network can be trained.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from baselines.draws import flat, keyed_generator, replaced, shaped
from baselines.method import Loss
from baselines.precision import as_statistic, statistics_dtype


def layer_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters of convolutions and linear layers, biases included; not those of norms."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | _ConvNd)]
    params = dict.fromkeys(p for layer in layers for p in layer.parameters(recurse=False) if p.requires_grad)
    if not params:
        raise ValueError(f"{type(model).__name__} has no trainable convolutions or linear layers")
    return list(params)


class MeanField:
    """A Gaussian with independent entries over parameters that themselves hold its mean mu.

        q = MeanField(model.parameters(), prior_precision=10.0, std_init=0.01)
        optimizer = torch.optim.AdamW([*model.parameters(), q.rho], lr=2e-3, weight_decay=0.0)
        for inputs, targets in batches:
            optimizer.zero_grad()
            with q.sampled(generator) as noise:
                criterion(model(inputs), targets).backward()
            q.chain_rule(noise, kl_weight=1 / train_size)
            optimizer.step()

    `rho` is one flat tensor (P,), which a checkpoint keeps beside the model's state. A prediction is averaged
    over a few `with q.sampled(generator): model(inputs).softmax(-1)`.

    kl_reduction "sum" is the KL of the definition. "mean" divides the part of every tensor by its size, as a
    library behind published numbers does: the prior then hardly matters.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        prior_precision: float,
        std_init: float,
        kl_reduction: Literal["sum", "mean"] = "sum",
    ) -> None:
        self.params = [p for p in params if p.requires_grad]
        if not self.params or not prior_precision > 0 or not std_init > 0:
            raise ValueError(
                f"MeanField needs trainable parameters, prior_precision > 0, std_init > 0; "
                f"got {len(self.params)}, {prior_precision}, {std_init}"
            )
        if kl_reduction not in ("sum", "mean"):
            raise ValueError(f"kl_reduction must be 'sum' or 'mean', got {kl_reduction!r}")
        self.prior_precision = prior_precision
        # softplus(rho) = std_init
        self.rho = torch.full_like(flat(self.params), math.log(math.expm1(std_init))).requires_grad_()
        sizes = [1 if kl_reduction == "sum" else p.numel() for p in self.params]
        shares = [
            torch.full_like(p, 1 / size, dtype=statistics_dtype(p.dtype))
            for p, size in zip(self.params, sizes, strict=True)
        ]
        self._shares = flat(shares)  # by which the KL of each entry counts

    @property
    def std(self) -> Tensor:
        """Standard deviations, detached (P,)."""
        return F.softplus(self.rho.detach())

    def kl(self) -> Tensor:
        """KL(q || p) in nats with this `kl_reduction`: a detached scalar."""
        scaled = self.prior_precision * self.std.square()
        terms = 0.5 * (scaled + self.prior_precision * flat(self.params).square() - 1 - scaled.log())
        return (self._shares * terms).sum()

    @contextmanager
    def sampled(self, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """The parameters are a draw inside and mu again afterwards; yields its standard normals (P,)."""
        noise = torch.empty_like(self.rho, requires_grad=False).normal_(generator=generator)
        with replaced(self.params, torch.addcmul(flat(self.params), self.std, noise)):
            yield noise

    @torch.no_grad()
    def chain_rule(self, noise: Tensor, kl_weight: float) -> None:
        """Turn the gradients left at the draw of `noise` into those of mu and rho of lbar + kl_weight KL.

        d/dmu = g + kl_weight precision mu;  d/drho = (g noise + kl_weight (precision s - 1/s)) sigmoid(rho).
        A parameter that the loss does not depend on counts with g = 0: its KL remains.
        """
        g = flat([torch.zeros_like(p) if p.grad is None else p.grad for p in self.params])
        std, weight = self.std, kl_weight * self._shares
        grad_std = g * noise + weight * (self.prior_precision * std - 1 / std)
        self.rho.grad = (grad_std * torch.sigmoid(self.rho)).to(self.rho.dtype)
        g += weight * self.prior_precision * flat(self.params)
        for param, grad in zip(self.params, shaped(g, self.params), strict=True):
            param.grad = torch.empty_like(param).copy_(grad)  # in the parameter's memory format


class BayesByBackprop:
    """`MeanField` behind the verbs of a method, one draw a step; the loss of a step is without the KL."""

    reduces_gradients = False  # noise is alike on all ranks, so averaged gradients are those of one draw

    def __init__(
        self, posterior: MeanField, optimizer: torch.optim.Optimizer, *, kl_weight: float, seed: int
    ) -> None:
        self.posterior, self.optimizer = posterior, optimizer
        self._kl_weight, self._seed, self._steps = kl_weight, seed, 0

    def step(self, loss: Loss) -> Tensor:
        loss.check_undivided("BBB")
        self.optimizer.zero_grad(set_to_none=True)
        generator = keyed_generator(self.posterior.rho.device, self._seed, "bbb", self._steps)
        with self.posterior.sampled(generator) as noise:
            value = loss()
            value.backward()
        self.posterior.chain_rule(noise, self._kl_weight)
        self.optimizer.step()
        self._steps += 1
        return value.detach()

    def begin_epoch(self, epoch: int, epochs: int, steps: int) -> None:
        pass

    def draw(self, k: int, generator: torch.Generator) -> AbstractContextManager[Any]:
        return nullcontext() if k == 0 else self.posterior.sampled(generator)

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "rho": self.posterior.rho.detach(),
            "seed": self._seed,
            "steps": self._steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        rho = self.posterior.rho
        if state["rho"].shape != rho.shape:
            raise ValueError(
                f"BBB: the state is of {state['rho'].numel()} weights, the model has {rho.numel()}"
            )
        # Before the optimizer's state, which takes its dtype.
        rho.data = as_statistic(state["rho"]).to(rho.device, copy=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self._seed, self._steps = state["seed"], state["steps"]
