"""Gradients of single examples, for the Gauss-Newton estimate of the Hessian (Table 7)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.utils._pytree import tree_map

from ivon import _layers
from ivon._state import state_dtype


def per_example_backward(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    chunk_size: int | None = None,
    seen: Callable[[Any], None] | None = None,
) -> Tensor:
    """The mean loss over a batch; `p.grad` and `p.squared_grad` are set for all trainable parameters.

    They are the means over the examples of the gradient and of its square, as hess_approx="ggn" wants them;
    `p.grad` is what `backward()` of the mean loss would give. It is added to one that is there already, and
    the squares to those beside it. Squares are in float32, for float64 parameters in float64.

    Arguments:
        loss: maps outputs (1, ...) and targets (1, ...), a batch of one example, to a scalar.
        inputs, targets: with the examples along the first dimension, as the outputs have to have them.
        chunk_size: examples whose gradients are held in memory at the same time; all by default.
        seen: is called with the outputs of each chunk, detached.

    Networks of convolutions and linear layers take one ordinary backward pass, in which the gradients of each
    layer are made and reduced in their turn. All others go through torch.func, which takes more time and
    memory. So do those that have something but the examples in the first dimension of a layer's input: where
    its length does not tell, two more backward passes of a model's first call do, and later calls rely on it.
    A layer of another kind may join the first with an attribute `takes_parameters_of_each = True`: its
    forward pass then gets parameters (examples, *shape), with the same values for all, and has to tell their
    gradients apart.

    Layers that mix examples, such as BatchNorm in training mode, have no gradients of single examples:
    torch.func raises RuntimeError for them. Dropout draws a mask for each example.

    Example:
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            value = ivon.per_example_backward(model, nn.functional.cross_entropy, images, labels)
        optimizer.step()
    """
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise ValueError(
            f"inputs and targets must have equally many examples, at least one; "
            f"got {len(inputs)} and {len(targets)}"
        )
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # Of 16 bits small squares are zero, and long sums stand still.
    sums = {name: torch.zeros_like(p.detach(), dtype=state_dtype(p)) for name, p in params.items()}
    squares = {name: torch.zeros_like(s) for name, s in sums.items()}

    def keep(name: str, grads: Tensor) -> None:
        grads = grads.to(sums[name].dtype)
        sums[name] += grads.sum(0)
        squares[name] += grads.square_().sum(0)

    # Hooks are not for a compiler, which for its part needs no help with the memory.
    layered = not torch.compiler.is_compiling() and _layers.accepts(model)
    total = torch.zeros((), device=inputs.device)
    size = chunk_size or len(inputs)
    for x, y in zip(inputs.split(size), targets.split(size), strict=True):
        found = _layers.backward(model, loss, x, y, keep) if layered else None
        losses, outputs = found or _backward(model, loss, x, y, keep)
        total = total + losses.sum()
        if seen is not None:
            seen(outputs)
    for name, param in params.items():
        mean, square = (sums[name] / len(inputs)).to(param.dtype), squares[name] / len(inputs)
        if param.grad is not None:
            mean, earlier = param.grad.add_(mean), getattr(param, "squared_grad", None)
            square = square if earlier is None else earlier + square
        param.grad, param.squared_grad = mean, square  # type: ignore[attr-defined]
    return total / len(inputs)


def _backward(
    model: nn.Module, loss: Callable[[Any, Any], Tensor], inputs: Tensor, targets: Tensor, keep: _layers.Keep
) -> tuple[Tensor, Any]:
    """Losses (examples,) and outputs by torch.func; `keep` is given the gradients of each parameter."""
    values = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def loss_of(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Any]:
        outputs = functional_call(model, weights, (x.unsqueeze(0),))
        return loss(outputs, y.unsqueeze(0)), tree_map(lambda t: t.squeeze(0), outputs)

    of_each = vmap(grad_and_value(loss_of, has_aux=True), in_dims=(None, 0, 0), randomness="different")
    grads, (losses, outputs) = of_each(values, inputs, targets)
    for name, of_param in grads.items():
        keep(name, of_param)
    return losses, outputs
