"""AdaHessian (Yao et al., 2021): Adam with the squared Hutchinson estimate of the Hessian's diagonal.

The variant of the paper's comparison: no spatial averaging, Hessian power 1, decoupled weight decay.
Usable with any network whose backward pass can be differentiated once more:

    optimizer = AdaHessian(model.parameters(), lr=0.05)
    loss = criterion(model(x), y)
    optimizer.backward(loss)
    optimizer.step()
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from baselines.precision import as_statistic, statistics_loaded, zeros_like


class AdaHessian(torch.optim.Optimizer):
    """z Rademacher, D = z * (H z);  v <- b2 v + (1 - b2) D^2;
    theta <- (1 - lr wd) theta - lr mhat / (sqrt(vhat) + eps).

    `generator` draws z; it must live on the parameters' device. `backward` takes the place of
    `loss.backward()`. Several calls of it before a `step` add up, as micro-batches do; the gradients of the
    step before are dropped at the first, so that no `zero_grad` is needed.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        if not lr >= 0 or not eps > 0 or not all(0 <= beta < 1 for beta in betas) or not weight_decay >= 0:
            raise ValueError(
                f"AdaHessian needs lr >= 0, eps > 0, 0 <= betas < 1, weight_decay >= 0; "
                f"got lr={lr}, eps={eps}, betas={betas}, weight_decay={weight_decay}"
            )
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.generator = generator
        self._curvature: dict[Tensor, Tensor] = {}

    def backward(self, loss: Tensor) -> None:
        """Fill `p.grad`, and keep D = z * (H z) of one Rademacher z for the next `step`.

        Each call has a z of its own: the sum of D over calls is unbiased for the sum of their losses.
        """
        if not self._curvature:
            # Otherwise parameters that this loss leaves out kept a gradient of the step before.
            super().zero_grad(set_to_none=True)
        params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        grads = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
        used = [(p, g) for p, g in zip(params, grads, strict=True) if g is not None]
        signs = [
            torch.empty_like(p).bernoulli_(0.5, generator=self.generator).mul_(2).sub_(1) for p, _ in used
        ]
        # A gradient that is constant in the weights has no graph: its Hessian is zero.
        curved = [i for i, (_, g) in enumerate(used) if g.requires_grad]
        products: tuple[Tensor | None, ...] = (None,) * len(used)
        if curved:
            products = torch.autograd.grad(
                [used[i][1] for i in curved],
                [p for p, _ in used],
                grad_outputs=[signs[i] for i in curved],
                allow_unused=True,
            )
        for (p, g), z, hz in zip(used, signs, products, strict=True):
            grad, diagonal = g.detach(), zeros_like(p) if hz is None else as_statistic(z * hz)
            if p.grad is not None and p in self._curvature:
                grad, diagonal = p.grad + grad, self._curvature[p] + diagonal
            p.grad, self._curvature[p] = grad, diagonal

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients, and forget the curvature that was kept with them."""
        self._curvature.clear()
        super().zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update from the gradients and the curvature of `backward` since the last step.

        A `closure` computes the loss, calls `backward` and returns the loss, which is returned here.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in (p for p in group["params"] if p.grad is not None):
                if p not in self._curvature:
                    raise RuntimeError(
                        "AdaHessian.step() needs optimizer.backward(loss) in place of loss.backward()"
                    )
                diagonal = self._curvature.pop(p)
                state = self.state[p]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float64)
                    state["mean"], state["square"] = zeros_like(p), zeros_like(p)
                state["step"] += 1
                t = state["step"].item()
                state["mean"].lerp_(p.grad.to(state["mean"].dtype), 1 - beta1)
                state["square"].mul_(beta2).addcmul_(diagonal, diagonal, value=1 - beta2)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                denominator = (state["square"] / (1 - beta2**t)).sqrt_().add_(group["eps"])
                p.addcdiv_(state["mean"], denominator, value=-group["lr"] / (1 - beta1**t))
        self._curvature.clear()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; statistics keep the precision that they were saved in."""
        with statistics_loaded(self):
            super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles are made of this; torch's has only what all optimizers have.
        return {**super().__getstate__(), "generator": self.generator, "_curvature": self._curvature}
