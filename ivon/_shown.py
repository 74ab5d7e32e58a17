"""The gradient that a step with several draws would use: shown in `p.grad`, and followed where it changes.

Clipping, and `GradScaler.unscale_`, look there and scale what they find. The same is then done to the sums
over the draws, so that all draws are scaled alike.
"""

import torch
from torch import Tensor

from ivon import _captured, _shards
from ivon._state import State
from ivon._stretches import stretches

OTHER_CHANGE = (
    "after several draws `p.grad` is their average, and it was changed in another way than by making entries "
    "smaller, as clipping does, or by one factor for a parameter: it cannot be told what that means for each "
    "draw. Change the gradients of each draw within its sampled_params(train=True)"
)


def show(param: Tensor, state: State, divisor: float) -> None:
    """Let `p.grad` be the sum over draws divided by `divisor`; in memory of its own."""
    like = param if param.grad is None else param.grad
    shown = torch.empty_like(like, requires_grad=False)
    _shards.local(shown).copy_(_shown(state["grad_sum"], divisor, like.dtype))
    param.grad = shown


def follow(pairs: list[tuple[Tensor, State]], divisor: float, power: int) -> None:
    """Do to the sums over draws what was done to `p.grad` since it was shown.

    Products are changed by that `power` of the ratios: they have as many gradients as factors. Removed
    gradients leave the sums as they are. RuntimeError if a change is not one of scale.
    """
    wrong = [_follow(param.grad, state, divisor, power) for param, state in pairs if param.grad is not None]
    # What a CUDA graph does cannot be looked at while it is captured.
    if wrong and not _captured.is_capturing() and any(torch.stack([w.cpu() for w in wrong]).tolist()):
        raise RuntimeError(OTHER_CHANGE)


def _shown(grad_sum: Tensor, divisor: float, dtype: torch.dtype) -> Tensor:
    return (grad_sum if divisor == 1 else grad_sum / divisor).to(dtype)


def _follow(grad: Tensor, state: State, divisor: float, power: int) -> Tensor:
    """Scale the sums of one parameter; whether the change was not one of scale."""
    now, total = _shards.local(grad), state["grad_sum"]
    limits = torch.finfo(now.dtype)
    tolerance = max(1e-4, 4 * limits.eps)  # of rounding; whatever else is so small does not matter
    norm = torch.linalg.vector_norm(total, 1) / divisor
    factor = torch.linalg.vector_norm(now, 1, dtype=total.dtype) / norm
    grown = uneven = torch.zeros((), dtype=torch.bool, device=now.device)
    for stretch in stretches([[now], [total], [state["product_sum"]]]):
        found, sums, products = (tensors[0] for tensors in stretch.tensors)
        shown = _shown(sums, divisor, found.dtype).to(sums.dtype)
        found = found.to(sums.dtype)
        ratio = torch.where(found == shown, 1.0, found / shown)  # nan is in no relation below
        grown = grown | ((ratio < 0) | (ratio > 1 + tolerance)).any()
        uneven = uneven | ((found - factor * shown).abs() > tolerance * found.abs() + limits.tiny).any()
        sums.mul_(ratio)
        products.mul_(ratio if power == 1 else ratio.square())
    return grown & uneven
