"""Parameters that become trainable, or are frozen, between the beginning of a draw and the step.

One that joins within a draw was at its mean there. Its gradient counts like that of any other; but that there
was no noise says nothing about its Hessian in Eq. 3. Neither does a draw in which a parameter was frozen. In
the average over the draws of a step such draws count as if their estimate were the Hessian that there is.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ivon import _shards
from ivon._sampling import Block
from ivon._state import Group, State, States, alike, state_dtype, states_of

# In a state, between the draws of a step: the weight of the draws that say something about the Hessian.
SEEN = "seen_weight"


def blocks_at_mean(
    groups: list[Group], states: States, drawn: list[Block], is_of_draw: Callable[[Tensor], bool]
) -> list[Block]:
    """Blocks without noise: of parameters that are not among those drawn and have a gradient of the draw."""
    taken = {id(param) for block in drawn for param in block.params}
    blocks: list[Block] = []
    for group in groups:
        late = [param for param in group["params"] if id(param) not in taken and is_of_draw(param)]
        for params in alike(late):
            size = sum(map(Tensor.numel, _shards.locals_of(params)))
            flat = torch.zeros(size, dtype=state_dtype(params[0]), device=params[0].device)
            blocks.append(Block(group, params, states_of(params, group, states), flat, at_mean=True))
    return blocks


def note_seen(block: Block, grads: list[Tensor | None], weight: float, estimator: str) -> None:
    """Add the weight of a draw to that of the draws that say something about the Hessians of a block.

    Without a gradient a trainable parameter was not used, which is an estimate of 0. Squared gradients are
    one at the mean as well.
    """
    said = 0.0 if block.at_mean and estimator == "price" else weight
    for param, state, grad in zip(block.params, block.states, grads, strict=True):
        if grad is not None or param.requires_grad:
            state[SEEN] = state.get(SEEN, 0.0) + said


def fill_unseen(group: Group, states: list[State], weight: float, divisor: float, estimator: str) -> None:
    """Let draws that say nothing about a Hessian count as if they said what it is; `weight`: of all draws."""
    for state in states:
        unseen = 1 - state[SEEN] / weight
        if unseen > 0:
            hess = _shards.local(state["hess"])
            said = hess / (hess + group["weight_decay"]) if estimator == "price" else hess
            scale = 1.0 if estimator == "ggn" else group["ess"]
            state["product_sum"].add_(said, alpha=unseen * divisor / scale)
