"""The step: from the gradients of the draws to the new posterior."""

import math
from collections.abc import Hashable

import torch
from torch import Tensor

from ivon import _compiled, _kernels
from ivon._accumulate import Pending
from ivon._sampling import Block
from ivon._state import Group, State, has_residuals, kind, state_dtype
from ivon._stretches import stretches


class Update:
    """One step of one parameter group."""

    def __init__(self, group: Group, *, estimator: str, debias: bool, rescale_lr: bool) -> None:
        self._group = group
        self._estimator = estimator
        self._debias = debias
        self._rescale_lr = rescale_lr

    def from_draw(self, pending: Pending) -> None:
        """The step from a single draw; the products need no memory of their own."""
        whole, grads = pending.read(self._estimator)
        for chosen in _batches(whole.params, whole.states):
            block = whole.part(chosen)
            self._apply(block, [grads[i] for i in chosen], block.kept, weight=None)

    def from_sums(self, params: list[Tensor], states: list[State], weight: float) -> None:
        """The step from the sums in the states, of total `weight`; those of the products are consumed."""
        for chosen in _batches(params, states):
            block = Block(self._group, [params[i] for i in chosen], [states[i] for i in chosen], [])
            self._apply(block, block.of_states("grad_sum"), block.of_states("product_sum"), weight)

    def _apply(self, block: Block, grads: list[Tensor], products: list[Tensor], weight: float | None) -> None:
        """For parameters of one kind with equally many steps. Without a weight `products` is the noise."""
        for state in block.states:
            state["step"] += 1
        dtype = state_dtype(block.params[0])
        n = self._numbers(block.states[0]["step"], weight or 1.0, dtype)
        flags = _kernels.Flags(self._estimator, weight is not None, n.clip < math.inf)
        roles = [block.local_params(), block.of_states("hess"), block.of_states("momentum"), grads, products]
        changed = (0, 1, 2)
        if has_residuals(block.states):
            roles.append(block.of_states("residual"))
            changed = (0, 1, 2, 5)
        for stretch in stretches(roles):
            o = stretch.operations
            operands = stretch.operands()
            operands[3] = o.to(operands[3], dtype)
            if not (stretch.long and _compiled.update(*operands, n=n, flags=flags)):
                _kernels.update(o, *operands, n=n, flags=flags)
            for role in changed:
                stretch.put_back(role, operands[role])

    def _numbers(self, steps: int, weight: float, dtype: torch.dtype) -> _kernels.Numbers:
        group = self._group
        bias_correction = 1 - group["beta1"] ** steps if self._debias else 1.0
        rescaling = group["hess_init"] + group["weight_decay"] if self._rescale_lr else 1.0
        return _kernels.Numbers(
            hess_scale=1.0 if self._estimator == "ggn" else group["ess"],
            weight=weight,
            momentum_rate=1 - group["beta1"],
            hess_rate=1 - group["beta2"],
            weight_decay=group["weight_decay"],
            decay=bias_correction * group["weight_decay"],
            clip=bias_correction * group["clip_radius"],
            lr=float(group["lr"]) * rescaling / bias_correction,
            hess_floor=_kernels.hess_floor(group["weight_decay"], dtype),
        )


def _batches(params: list[Tensor], states: list[State]) -> list[list[int]]:
    """The numbers of the parameters that are of one kind and have made equally many steps."""
    batches: dict[Hashable, list[int]] = {}
    for i, (param, state) in enumerate(zip(params, states, strict=True)):
        batches.setdefault((kind(param), state["step"]), []).append(i)
    return list(batches.values())
