"""The training draws of one step: noise kept until the gradient is read, and weighted sums over draws."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ivon import _foreach as foreach
from ivon._sampling import Block
from ivon._state import State


@dataclass
class _Gradients:
    """Those of a block of parameters at a draw, not read yet."""

    block: Block
    left: list[Tensor | None]  # as they were when the context was left, by reference

    def now(self) -> list[Tensor | None]:
        """As they are now, perhaps clipped or unscaled; as they were, where they have been removed since."""
        pairs = zip(self.block.params, self.left, strict=True)
        return [left if param.grad is None else param.grad for param, left in pairs]


@dataclass
class Draws:
    """The training draws since the last step.

    Their weighted sums `grad_sum` and `product_sum` are in the parameters' states, so that they are saved.
    """

    count: int = 0  # of the draws in the sums
    weight: float = 0.0  # of the draws in the sums, together
    _pending: list[_Gradients] | None = None
    _pending_weight: float = 1.0

    def leave(self, blocks: list[Block], weight: float) -> None:
        """Note a draw whose gradients are in `p.grad` from now on."""
        self._pending = [_Gradients(block, [param.grad for param in block.params]) for block in blocks]
        self._pending_weight = weight

    @torch.no_grad()
    def add_pending(self, hess_approx: str) -> None:
        """Read the gradients of the last draw; a sum may then still be the gradient itself."""
        if self._pending is None:
            return
        for gradients in self._pending:
            block = gradients.block
            items = zip(block.states, block.noise, gradients.now(), strict=True)
            used = [(state, noise, _dense(grad, noise)) for state, noise, grad in items if grad is not None]
            if used:
                _add(used, self._pending_weight, hess_approx)
        self.count += 1
        self.weight += self._pending_weight
        self._pending = None

    @torch.no_grad()
    def read_pending(self, hess_approx: str) -> None:
        """Read the gradients of the last draw into sums of our own: others may overwrite or zero theirs."""
        pending = self._pending or []
        self.add_pending(hess_approx)
        for gradients in pending:
            for state, grad in zip(gradients.block.states, gradients.now(), strict=True):
                if grad is not None and state["grad_sum"] is grad:
                    state["grad_sum"] = grad.clone()

    def forget(self, states: Iterable[State]) -> None:
        """Start anew: nothing drawn, nothing summed."""
        self.count, self.weight, self._pending = 0, 0.0, None
        for state in states:
            state.pop("grad_sum", None)
            state.pop("product_sum", None)


def _dense(grad: Tensor, noise: Tensor) -> Tensor:
    if grad.layout != torch.strided:
        raise RuntimeError(f"IVON needs dense gradients, got {grad.layout}; e.g. nn.Embedding(sparse=False)")
    return grad.to(noise.dtype)


def _add(used: list[tuple[State, Tensor, Tensor]], weight: float, hess_approx: str) -> None:
    """Add weight * grad to `grad_sum` and weight * noise * grad (gradsq: weight * grad^2) to `product_sum`.

    `used` has the state, the noise and the gradient of each parameter. The buffers of the noise become the
    products. With weight 1 the gradients of a first draw are kept by reference: one draw costs no copy.
    """
    states = [state for state, _, _ in used]
    products = [noise for _, noise, _ in used]
    grads = [grad for _, _, grad in used]
    if hess_approx == "gradsq":
        foreach.copy_(products, grads)
    foreach.mul_(products, grads)
    if weight != 1:
        foreach.mul_(products, weight)
        grads = list(foreach.mul(grads, weight))
    later = [i for i, state in enumerate(states) if "grad_sum" in state]
    if later:
        foreach.add_([states[i]["grad_sum"] for i in later], [grads[i] for i in later])
        foreach.add_([states[i]["product_sum"] for i in later], [products[i] for i in later])
    for state, grad, product in zip(states, grads, products, strict=True):
        if "grad_sum" not in state:
            state["grad_sum"], state["product_sum"] = grad, product
