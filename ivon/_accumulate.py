# pyright: reportPrivateImportUsage=false
"""The training draws of one step: noise kept until the gradient is read, and weighted sums over draws."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from ivon import _fused, _kernels, _shards
from ivon._operations import LISTS
from ivon._sampling import Block
from ivon._state import State
from ivon._stretches import laid_out_like


@dataclass
class Pending:
    """A block of parameters that were at a draw; their gradients have not been read yet."""

    block: Block
    left: list[Tensor | None]  # the gradients as they were when the context was left, by reference
    versions: list[int]  # how often each had been changed by then

    def now(self) -> list[Tensor | None]:
        """The gradients as they are, perhaps clipped or unscaled; as they were, where they are removed."""
        pairs = zip(self.block.params, self.left, strict=True)
        return [left if (grad := param.grad) is None else grad for param, left in pairs]

    def changed(self) -> bool:
        """Whether any gradient was changed or replaced since the context was left."""
        then = zip(self.now(), self.left, self.versions, strict=True)
        return any(
            now is not left or (now is not None and now._version != version) for now, left, version in then
        )

    def read(self, estimator: str) -> tuple[Block, list[Tensor]]:
        """The part of the block that has gradients, and they: what this process holds of each."""
        now = self.now()
        grads = [grad for grad in now if grad is not None]
        _check_dense(grads)
        block = self.block.part([i for i, grad in enumerate(now) if grad is not None])
        if estimator == "ggn":
            for param, kept in zip(block.params, block.kept, strict=True):
                kept.copy_(_shards.local(squares_of(param)))
        return block, _shards.locals_of(grads)


@dataclass
class Draws:
    """The training draws since the last step.

    Their weighted sums `grad_sum` and `product_sum` are in the parameters' states, so that they are saved.
    """

    count: int = 0  # of the draws in the sums
    weight: float = 0.0  # of the draws in the sums, together
    _pending: list[Pending] | None = None
    _pending_weight: float = 1.0
    _captured: bool = False  # whether they are in a CUDA graph
    # Whether gradients were changed after their context, for each block of parameters.
    _changes: dict[int, set[bool]] = field(default_factory=dict)
    # By the parameter's id: gradients not to be missed, and their versions. An id of a gradient would not
    # do, as the next one may have it.
    _known: dict[int, tuple["ref[Tensor]", int]] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_known": {}}  # copies of parameters come without gradients

    def leave(self, blocks: list[Block], weight: float) -> None:
        """Note a draw whose gradients are in `p.grad` from now on."""
        self._pending, self._known = [], {}
        for block in blocks:
            grads = [param.grad for param in block.params]
            versions = [-1 if grad is None else grad._version for grad in grads]
            self._pending.append(Pending(block, grads, versions))
            found = zip(map(id, block.params), grads, versions, strict=True)
            self._known |= {key: (ref(grad), version) for key, grad, version in found if grad is not None}
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

    def pending_gradients(self) -> list[Tensor] | None:
        """Those of the last draw; None if there is none, or they have been read."""
        if self._pending is None:
            return None
        return [grad for pending in self._pending for grad in pending.now() if grad is not None]

    def drop_pending_without_gradients(self) -> None:
        """Let the last draw not count if no parameter has a gradient from it."""
        if self._pending and all(grad is None for pending in self._pending for grad in pending.now()):
            self._pending = None

    def clear_gradients(self, params: list[Tensor]) -> None:
        """Drop gradients that are known; RuntimeError if there are others, which would be lost in silence."""
        for param in params:
            grad = param.grad
            if grad is None:
                continue
            if not self._knows(param, grad) and _any_nonzero(grad):
                raise RuntimeError(
                    "a parameter has a gradient from outside of sampled_params(train=True): compute all "
                    "gradients of a step within it, or call zero_grad() to drop them"
                )
            param.grad = None

    def remember_gradients(self, params: list[Tensor]) -> None:
        """Those that parameters have now have been used, or are not wanted."""
        pairs = [(id(param), grad) for param in params if (grad := param.grad) is not None]
        self._known = {key: (ref(grad), grad._version) for key, grad in pairs}

    def _knows(self, param: Tensor, grad: Tensor) -> bool:
        known = self._known.get(id(param))
        return known is not None and known[0]() is grad and known[1] == grad._version

    def take_single(self) -> list[Pending] | None:
        """The draw of a step that has only one, of weight 1, as it was drawn: it needs no sums, or None."""
        if self.count or self._pending_weight != 1 or self._pending is None:
            return None
        if not all(pending.block.is_as_drawn() for pending in self._pending):
            return None
        pending, self._pending = self._pending, None
        return pending

    def check_changes(self) -> None:
        """RuntimeError if the gradients of some draws were changed after their contexts and others not."""
        if any(len(answers) > 1 for answers in self._changes.values()):
            raise RuntimeError(
                f"of {self.count} draws in a step, the gradients of some were changed after their context "
                f"and those of others not: clip the gradients of every draw, best within its context"
            )

    @torch.no_grad()
    def add_pending(self, hess_approx: str) -> None:
        """Read the gradients of the last draw; a sum may then still be the gradient itself."""
        if self._pending is None:
            return
        for i, pending in enumerate(self._pending):
            block, grads = pending.read(hess_approx)
            if grads:
                self._changes.setdefault(i, set()).add(pending.changed())
                _add(block, grads, self._pending_weight, hess_approx)
        self.count += 1
        self.weight += self._pending_weight
        self._pending = None

    @torch.no_grad()
    def read_pending(self, hess_approx: str) -> None:
        """Read the gradients of the last draw into sums of our own: others may overwrite or zero theirs."""
        pending = self._pending
        if not pending:
            return
        self.add_pending(hess_approx)
        for part in pending:
            for state, grad in zip(part.block.states, part.now(), strict=True):
                if grad is not None and state["grad_sum"] is _shards.local(grad):
                    state["grad_sum"] = state["grad_sum"].clone()
        self.remember_gradients([param for part in pending for param in part.block.params])

    def forget(self, states: Iterable[State]) -> None:
        """Start anew: nothing drawn, nothing summed."""
        self.count, self.weight, self._pending, self._changes = 0, 0.0, None, {}
        for state in states:
            state.pop("grad_sum", None)
            state.pop("product_sum", None)


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


def _check_dense(grads: list[Tensor]) -> None:
    for layout in set(map(attrgetter("layout"), grads)) - {torch.strided}:
        raise RuntimeError(f"IVON needs dense gradients, got {layout}; e.g. nn.Embedding(sparse=False)")


def _any_nonzero(grad: Tensor) -> bool:
    _check_dense([grad])
    return bool(_shards.local(grad).count_nonzero())


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
