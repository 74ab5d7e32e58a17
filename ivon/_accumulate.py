# pyright: reportPrivateImportUsage=false
"""The training draws of one step: noise kept until the gradient is read, and weighted sums over draws."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ivon import _fused, _kernels, _shards
from ivon._joined import SEEN, fill_unseen, note_seen
from ivon._operations import LISTS
from ivon._outside import Gradients, check_dense
from ivon._sampling import Block
from ivon._shown import follow, show
from ivon._state import Group, State, States
from ivon._stretches import laid_out_like


@dataclass
class Pending:
    """A block of parameters that were at a draw; their gradients have not been read yet."""

    block: Block
    left: list[Tensor | None]  # the gradients as they were when the context was left, by reference

    def now(self) -> list[Tensor | None]:
        """The gradients as they are, perhaps clipped or unscaled; as they were, where they are removed."""
        pairs = zip(self.block.params, self.left, strict=True)
        return [left if (grad := param.grad) is None else grad for param, left in pairs]

    def read(self, estimator: str) -> tuple[Block, list[Tensor]]:
        """The part of the block that has gradients, and they: what this process holds of each."""
        now = self.now()
        grads = [grad for grad in now if grad is not None]
        check_dense(grads)
        block = self.block.part([i for i, grad in enumerate(now) if grad is not None])
        if estimator == "ggn":
            for param, kept in zip(block.params, block.kept, strict=True):
                kept.copy_(_shards.local(squares_of(param)))
        return block, _shards.locals_of(grads)


@dataclass
class Draws:
    """The training draws since the last step.

    Their weighted sums `grad_sum` and `product_sum` are in the parameters' states, so that they are saved.
    The gradient of a first draw is read late, when a second begins or at the step. Those of later draws are
    read at their end, and from then on `p.grad` shows what a step would use.
    """

    count: int = 0  # of the draws in the sums
    weight: float = 0.0  # of the draws in the sums, together
    reduction: str = "mean"
    even: bool = False  # the sums are known to be the same on all ranks that train one model
    gradients: Gradients = field(default_factory=Gradients)
    _pending: list[Pending] | None = None
    _pending_weight: float = 1.0
    _captured: bool = False  # whether they are in a CUDA graph
    _shown: list[tuple[Tensor, State]] = field(default_factory=list)  # parameters that show the sums

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_shown": []}  # copies of parameters come without gradients

    @property
    def divisor(self) -> float:
        """What the sums are divided by for the gradient of a step."""
        return self.weight if self.reduction == "mean" else 1.0

    def agree(self, reduction: str) -> None:
        """The reduction of the draw that begins; RuntimeError if that of the draws before it is another."""
        check_agree(reduction, None if self.is_empty() else self.reduction)
        self.reduction = reduction

    def leave(self, blocks: list[Block], weight: float) -> None:
        """Note a draw whose gradients are in `p.grad` from now on."""
        self.gradients.remember(param for block in blocks for param in block.params)
        self._pending = [Pending(block, [param.grad for param in block.params]) for block in blocks]
        self._pending_weight = weight

    def stay(self, captured: bool) -> None:
        """RuntimeError if one of a draw and its step is in a CUDA graph and the other is not."""
        if not self.is_empty() and captured != self._captured:
            raise RuntimeError(
                "a training draw and its step belong into the same CUDA graph, or both outside: call step() "
                "or discard_draws() before the capture begins or ends"
            )
        self._captured = captured

    def is_empty(self) -> bool:
        """Whether there is no draw to make a step from."""
        return self.count == 0 and self._pending is None

    def drop_pending(self) -> None:
        """Let the last draw not count."""
        self._pending = None

    def pending_gradients(self) -> list[Tensor] | None:
        """Those of the last draw; None if there is none, or they have been read."""
        if self._pending is None:
            return None
        return [grad for pending in self._pending for grad in pending.now() if grad is not None]

    def take_single(self) -> list[Pending] | None:
        """The draw of a step that has only one, of weight 1, as it was drawn: it needs no sums, or None."""
        if self.count or self._pending_weight != 1 or self._pending is None:
            return None
        if not all(p.block.is_as_drawn() and not p.block.at_mean for p in self._pending):
            return None
        pending, self._pending = self._pending, None
        return pending

    def ids(self) -> set[int]:
        """Those of the parameters whose gradients a step would use."""
        pending = {id(param) for pending in self._pending or [] for param in pending.block.params}
        return pending | {id(param) for param, _ in self._shown}

    @torch.no_grad()
    def update_sums(self, estimator: str) -> None:
        """Read the gradients of the last draw, or what was done to those shown.

        A sum may then still be the gradient itself.
        """
        shown, self._shown = self._shown, []
        follow(shown, self.divisor, power=1 if estimator == "price" else 2)
        pending, self._pending = self._pending, None
        if pending is None:
            return
        found = [(part, *part.read(estimator)) for part in pending]
        for part, block, grads in found:
            note_seen(part.block, part.now(), self._pending_weight, estimator)
            if grads:
                _add(block, grads, self._pending_weight, estimator)
        self.count += 1
        self.weight += self._pending_weight
        self.even = False

    @torch.no_grad()
    def update_own_sums(self, estimator: str) -> None:
        """The same, into memory of our own: others may overwrite or zero their gradients."""
        pending = self._pending or []
        used = [param for part in pending for param in part.block.params]
        used += [param for param, _ in self._shown]
        self.update_sums(estimator)
        for part in pending:
            for state, grad in zip(part.block.states, part.now(), strict=True):
                if grad is not None and state["grad_sum"] is _shards.local(grad):
                    state["grad_sum"] = state["grad_sum"].clone()
        if used:
            self.gradients.remember(used)

    @torch.no_grad()
    def show(self, groups: list[Group], states: States, *, visible: bool = False) -> None:
        """Let `p.grad` be what a step would use: everywhere, or where gradients are `visible`."""
        if not self.count:
            return
        params = [param for group in groups for param in group["params"]]
        self._shown = [
            (param, state)
            for param in params
            if "grad_sum" in (state := states.get(param, {})) and not (visible and param.grad is None)
        ]
        for param, state in self._shown:
            show(param, state, self.divisor)

    @torch.no_grad()
    def complete_products(self, group: Group, states: list[State], estimator: str) -> None:
        """Make the sums of products ready for a step; `states` are those that have them.

        Where the losses have their shares already, their squared gradients have the squares of these, which
        are taken for equal.
        """
        if self.reduction == "sum" and estimator != "price":
            torch._foreach_mul_([state["product_sum"] for state in states], self.weight)
        fill_unseen(group, states, self.weight, self.divisor, estimator)

    def forget(self, states: Iterable[Any]) -> None:
        """Start anew: nothing drawn, nothing summed."""
        self.count, self.weight, self._pending, self._shown = 0, 0.0, None, []
        for state in states:
            if isinstance(state, dict):  # others may keep something of their own there
                for name in ("grad_sum", "product_sum", SEEN):
                    state.pop(name, None)


def check_agree(reduction: str, before: str | None) -> None:
    """RuntimeError if the reduction is another than that of the draws before, if there are any."""
    if before is not None and reduction != before:
        raise RuntimeError(
            f"the draws of one step must have one reduction, got {reduction!r} after {before!r}"
        )


def drop_squares(params: Iterable[Tensor]) -> None:
    """Remove what per_example_backward has left beside the gradients: it is to be used no more than they."""
    for param in params:
        if hasattr(param, "squared_grad"):
            param.squared_grad = None  # type: ignore[attr-defined]


def squares_of(param: Tensor) -> Tensor:
    """The mean over examples of the squared gradient, which per_example_backward has left at a parameter."""
    squares = getattr(param, "squared_grad", None)
    if squares is None:
        raise RuntimeError(
            "hess_approx='ggn' needs the squared gradients of single examples: compute the gradients with "
            "ivon.per_example_backward()"
        )
    return squares


def _add(block: Block, grads: list[Tensor], weight: float, hess_approx: str) -> None:
    """Add weight * grad to `grad_sum`, and weight * noise * grad (see _kernels.multiply) to `product_sum`.

    The noise becomes the products. With weight 1 the gradients of a first draw are kept by reference: one
    draw costs no copy.
    """
    if block.drawn is not None:
        _add_fused(block, block.drawn, grads, weight, hess_approx)
        return
    states, products = block.states, block.kept
    grads = LISTS.to(grads, products[0].dtype)
    _kernels.multiply(LISTS, products, grads, hess_approx)
    if weight != 1:
        torch._foreach_mul_(products, weight)
        grads = list(torch._foreach_mul(grads, weight))
    later = [i for i, state in enumerate(states) if "grad_sum" in state]
    if later:
        torch._foreach_add_([states[i]["grad_sum"] for i in later], [grads[i] for i in later])
        torch._foreach_add_([states[i]["product_sum"] for i in later], [products[i] for i in later])
    for state, grad, product in zip(states, grads, products, strict=True):
        if "grad_sum" not in state:
            state["grad_sum"], state["product_sum"] = grad, product


def _add_fused(
    block: Block, drawn: _fused.Draw, grads: list[Tensor], weight: float, hess_approx: str
) -> None:
    """The same by kernels that make the noise as they go."""
    for later in (True, False):
        chosen = [i for i, state in enumerate(block.states) if ("grad_sum" in state) == later]
        if not chosen:
            continue
        part = block.part(chosen)
        hess = part.of_states("hess")
        new = laid_out_like(hess, [grads[i] for i in chosen])  # they may become the sums
        products = part.of_states("product_sum") if later else [torch.empty_like(h) for h in hess]
        _fused.add(
            drawn.part(chosen),
            hess,
            new,
            products,
            part.of_states("grad_sum") if later else None,
            **part.numbers(),
            weight=weight,
            estimator=hess_approx,
        )
        if later:
            continue
        sums = new if weight == 1 else torch._foreach_mul(new, weight)
        for state, grad, product in zip(part.states, sums, products, strict=True):
            state["grad_sum"], state["product_sum"] = grad, product
