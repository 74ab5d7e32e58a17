"""Posterior-averaged predictions of a classifier."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ivon._averaging import over_posterior, tensor_of


@torch.no_grad()
def predict(
    model: nn.Module,
    inputs: Any,
    n_samples: int = 64,
    *,
    posterior: Any,
    class_dim: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Log-probabilities (N, C): the log of the softmax of the logits averaged over `n_samples` draws.

    `posterior` is the IVON that trained the model (or a wrapper of it), a `Posterior` or a `Mixture`.
    `n_samples=0` predicts with the mean of the posterior ("IVON@mean"), with a mixture by averaging over the
    means of its members. The logits are `model(inputs)`, or `model(**inputs)` for a dict, or the attribute
    `logits` of either. A model is in evaluation mode meanwhile, and unchanged afterwards. The average is
    taken in log space in float32 at least.

        log_probs = ivon.predict(model, images, posterior=optimizer)

    Logits of any other shape than (N, C) want `class_dim`, the dimension that has the classes: -1 for each
    token of a sequence (N, T, C), 1 for each pixel of an image (N, C, H, W). Log-probabilities have the shape
    of the logits. ValueError where there are no two classes: two classes with one logit z are the logits
    (0, z), and `ivon.predict_regression` is for outputs that are no logits. Probabilities in place of logits
    are taken as they come, with a warning.

    The draws are a function of `seed`: every call, batch and rank has the same `n_samples` models. So a test
    set is predicted batch by batch, as if it were one batch:

        posterior = ivon.Posterior.of(model, optimizer)
        log_probs = torch.cat([ivon.predict(model, x, posterior=posterior) for x, _ in loader])

    Small passes are made for many draws at a time with `torch.vmap`, if the model allows it; the numbers are
    the same up to rounding.
    """
    if class_dim is not None and (isinstance(class_dim, bool) or not isinstance(class_dim, int)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"class_dim must be an integer, the dimension of the classes, got {class_dim!r}")
    softmax = _Softmax(class_dim)
    log_probs = over_posterior(model, inputs, n_samples, posterior, seed, softmax)
    if softmax.of_probabilities:
        warnings.warn(
            "the model returns probabilities, which sum to 1 over the classes: predict() expects logits or "
            "log-probabilities, and its softmax makes of probabilities others that are much less sure",
            stacklevel=3,  # of no_grad
        )
    return log_probs


class _Softmax:
    """The log of the average of the softmax of logits."""

    def __init__(self, class_dim: int | None) -> None:
        self._class_dim = class_dim
        self.of_probabilities: bool | None = None  # until the first pass

    def read(self, outputs: Any) -> Tensor:
        logits = tensor_of(outputs, "logits or an object that has them")
        dim = _dim_of_classes(tuple(logits.shape), self._class_dim)
        if self.of_probabilities is None:  # never within vmap, which is not for the first
            self.of_probabilities = _are_probabilities(logits, dim)
        return torch.log_softmax(logits, dim, dtype=torch.promote_types(logits.dtype, torch.float32))

    def add(self, total: Tensor | None, each: Tensor, weights: Sequence[float]) -> Tensor:
        log_weights = [math.log(weight) for weight in weights]
        if len(each) == 1:
            part = each[0] + log_weights[0]
        else:
            column = each.new_tensor(log_weights).view(-1, *[1] * (each.dim() - 1))
            part = (each + column).logsumexp(0)
        return part if total is None else torch.logaddexp(total, part)


def _dim_of_classes(shape: tuple[int, ...], given: int | None) -> int:
    """ValueError unless there is one dimension that it must be, of two classes at least."""
    if given is None:
        if len(shape) > 2:
            raise ValueError(
                f"class_dim must be given for logits of shape {shape}, which may have the classes in any "
                f"dimension: -1 if they come last, as in (N, T, C), 1 for (N, C, H, W)"
            )
        if len(shape) < 2 or shape[1] < 2:  # whose softmax is over the batch, or 1
            raise ValueError(
                f"model must return logits (N, C) with C >= 2, got shape {shape}; two classes with one logit "
                f"z are the logits (0, z), and ivon.predict_regression is for other outputs"
            )
        return -1
    if not -len(shape) <= given < len(shape):
        raise ValueError(f"class_dim must be a dimension of the logits, of shape {shape}, got {given}")
    if shape[given] < 2:
        raise ValueError(f"class_dim must have two classes at least, got {given} of logits of shape {shape}")
    return given


def _are_probabilities(logits: Tensor, dim: int) -> bool:
    """Whether all are >= 0 and sum to 1, of several examples: one may do so by chance."""
    if logits.numel() < 2 * logits.shape[dim]:
        return False
    tolerance = max(4 * torch.finfo(logits.dtype).eps, 1e-5)
    sums = logits.sum(dim, dtype=torch.promote_types(logits.dtype, torch.float32))
    return bool(((sums - 1).abs() <= tolerance).all() & (logits >= 0).all())
