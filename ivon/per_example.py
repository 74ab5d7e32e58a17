"""Gradients of single examples, for the Gauss-Newton estimate of the Hessian (Table 7)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap


def per_example_backward(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    chunk_size: int | None = None,
) -> Tensor:
    """The mean loss over a batch; `p.grad` and `p.squared_grad` are set for all trainable parameters.

    They are the means over the examples of the gradient and of its square, as hess_approx="ggn" wants them;
    `p.grad` is what `backward()` of the mean loss would give, and is added to one that is there already.

    Arguments:
        loss: maps outputs (1, ...) and targets (1, ...), a batch of one example, to a scalar.
        inputs, targets: with the examples along the first dimension.
        chunk_size: examples whose gradients are held in memory at the same time; all by default.

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
    values = {name: p.detach() for name, p in params.items()}

    def loss_of(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss(functional_call(model, weights, (x.unsqueeze(0),)), y.unsqueeze(0))

    of_each = vmap(grad_and_value(loss_of), in_dims=(None, 0, 0), randomness="different")
    sums = {name: torch.zeros_like(p) for name, p in values.items()}
    squares = {name: torch.zeros_like(p) for name, p in values.items()}
    total = torch.zeros((), device=inputs.device)
    size = chunk_size or len(inputs)
    for x, y in zip(inputs.split(size), targets.split(size), strict=True):
        grads, losses = of_each(values, x, y)
        total = total + losses.sum()
        for name, grad in grads.items():
            sums[name] += grad.sum(0)
            squares[name] += grad.square_().sum(0)
    for name, param in params.items():
        mean = sums[name] / len(inputs)
        param.grad = mean if param.grad is None else param.grad + mean
        param.squared_grad = squares[name] / len(inputs)  # type: ignore[attr-defined]
    return total / len(inputs)
