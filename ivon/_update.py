"""The step: from the gradients of the draws to the new posterior."""

import math

import torch
from torch import Tensor

from ivon import _captured, _fused, _kernels, _native
from ivon._accumulate import Pending
from ivon._sampling import Block
from ivon._settings import follow_betas
from ivon._state import Group, State, has_residuals, next_momentum_weight, state_dtype
from ivon._stretches import stretches

CHANGED = ("params", "hess", "momentum", "residuals")  # of the roles: what a step writes


class Update:
    """One step of one parameter group."""

    def __init__(
        self, group: Group, *, estimator: str, debias: bool, rescale_lr: bool, capturable: bool
    ) -> None:
        follow_betas(group)
        self._group = group
        self._estimator = estimator
        self._debias = debias
        self._rescale_lr = rescale_lr
        self._capturable = capturable

    def from_draw(self, pending: Pending) -> None:
        """The step from a single draw; the products need no memory of their own."""
        whole, grads = pending.read(self._estimator)
        for chosen in _batches(whole.states):
            block = whole.part(chosen)
            self._apply(block, grads if block is whole else [grads[i] for i in chosen], None, weight=None)

    def from_sums(self, params: list[Tensor], states: list[State], weight: float) -> None:
        """The step from the sums in the states, of total `weight`; those of the products are consumed.

        For parameters of one kind.
        """
        for chosen in _batches(states):
            block = Block(self._group, [params[i] for i in chosen], [states[i] for i in chosen])
            if not self._capturable and _fused.usable(block.params, block.states):
                block.drawn = _fused.no_draw(block.params)
            self._apply(block, block.of_states("grad_sum"), block.of_states("product_sum"), weight)

    def _apply(
        self, block: Block, grads: list[Tensor], products: list[Tensor] | None, weight: float | None
    ) -> None:
        """For parameters of one kind with equally many steps; from the block's noise, or of total weight."""
        if block.drawn is not None:
            self._apply_fused(block, grads, products, weight)
            return
        roles = {
            "params": block.local_params(),
            "hess": block.of_states("hess"),
            "momentum": block.of_states("momentum"),
        }
        native = not self._capturable and _native.usable(*roles.values())
        roles["grads"] = grads
        if has_residuals(block.states):
            roles["residuals"] = block.of_states("residual")
        correction = self._count(block)
        if isinstance(correction, list):
            pairs = zip(correction, roles["params"], strict=True)
            roles["corrections"] = [b.expand(param.shape) for b, param in pairs]
            correction = 1.0
        n = self._numbers(correction, weight or 1.0, block.params[0])
        flags = _kernels.Flags(self._estimator, weight is not None, n.clip < math.inf)
        if native:
            _native.update(**roles, products=products or block.noise(), n=n, flags=flags)
        else:
            roles["products"] = products or block.kept
            _apply_in_stretches(roles, n, flags)

    def _apply_fused(
        self, block: Block, grads: list[Tensor], products: list[Tensor] | None, weight: float | None
    ) -> None:
        assert block.drawn is not None
        correction = self._count(block)
        assert isinstance(correction, float)
        n = self._numbers(correction, weight or 1.0, block.params[0])
        _fused.update(
            block.drawn,
            block.params,
            block.of_states("hess"),
            block.of_states("momentum"),
            grads,
            products or [],
            noise_scale=block.numbers()["noise_scale"],
            n=n,
            flags=_kernels.Flags(self._estimator, weight is not None, n.clip < math.inf),
        )

    def _count(self, block: Block) -> float | list[Tensor]:
        """One more step; its bias correction b, on the device for each parameter if a graph may repeat it."""
        beta1 = self._group["beta1"]
        if self._capturable:
            _captured.advance(block.states, beta1)
            if self._debias:
                return _captured.bias_corrections(block.states)
            return [state["hess"].new_ones(()) for state in block.states]
        weight = next_momentum_weight(block.states[0], beta1)
        for state in block.states:
            state["step"] += 1
            state["momentum_weight"] = weight
        return weight if self._debias else 1.0

    def _numbers(self, bias_correction: float, weight: float, param: Tensor) -> _kernels.Numbers:
        group = self._group
        lr = group["lr"]
        if self._capturable and isinstance(lr, Tensor) and lr.device == param.device:
            # It can change between the replays of a graph. In 16 bits the products below would be rounded.
            lr = lr.to(torch.promote_types(lr.dtype, state_dtype(param))).reshape(())
        else:
            lr = float(lr)
        rescaling = group["hess_init"] + group["weight_decay"] if self._rescale_lr else 1.0
        return _kernels.Numbers(
            hess_scale=1.0 if self._estimator == "ggn" else group["ess"],
            weight=weight,
            momentum_rate=1 - group["beta1"],
            hess_rate=1 - group["beta2"],
            weight_decay=group["weight_decay"],
            decay=bias_correction * group["weight_decay"],
            clip=bias_correction * group["clip_radius"],
            lr=lr * rescaling / bias_correction,
            hess_floor=_kernels.hess_floor(group["weight_decay"], state_dtype(param)),
        )


def _apply_in_stretches(roles: dict[str, list[Tensor]], n: _kernels.Numbers, flags: _kernels.Flags) -> None:
    for stretch in stretches(list(roles.values())):
        o = stretch.operations
        operands = dict(zip(roles, stretch.operands(), strict=True))
        operands["grads"] = o.to(operands["grads"], roles["hess"][0].dtype)
        _kernels.update(o, **operands, n=n, flags=flags)
        for role, name in enumerate(roles):
            if name in CHANGED:
                stretch.put_back(role, operands[name])


def _batches(states: list[State]) -> list[list[int]]:
    """The numbers of the parameters that have made equally many steps, with the same beta1 at each."""
    steps = [(state["step"], state.get("momentum_weight")) for state in states]
    if len(set(steps)) == 1:
        return [list(range(len(steps)))]
    batches: dict[tuple[int, float | None], list[int]] = {}
    for i, step in enumerate(steps):
        batches.setdefault(step, []).append(i)
    return list(batches.values())
