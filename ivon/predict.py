"""Posterior-averaged predictions of a classifier."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ivon.optimizer import IVON


@torch.no_grad()
def predict(
    model: Callable[[Any], Tensor],
    optimizer: IVON,
    inputs: Any,
    draws: int = 64,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Log-probabilities (N, C): the log of the softmax of `model(inputs)` averaged over posterior draws.

    `draws=0` predicts with the mean of the posterior ("IVON@mean"). A module is in evaluation mode meanwhile.
    Without `generator` the noise is the optimizer's stream of test draws, which leaves the training alone.
    The average is taken in log space in float32 at least.

    Example: `probs = ivon.predict(model, optimizer, images, draws=64).exp()`.
    """
    if draws < 0:
        raise ValueError(f"draws must be >= 0 (0: predict with the posterior mean), got {draws}")
    with _evaluation_mode(model):
        if draws == 0:
            return _log_probs(model(inputs))
        total: Tensor | None = None
        for _ in range(draws):
            with optimizer.sampled_params(generator=generator):
                log_probs = _log_probs(model(inputs))
            total = log_probs if total is None else torch.logaddexp(total, log_probs)
    assert total is not None
    return total - math.log(draws)


def _log_probs(logits: Tensor) -> Tensor:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return torch.log_softmax(logits, dim=-1, dtype=dtype)


@contextmanager
def _evaluation_mode(model: Callable[[Any], Tensor]) -> Iterator[None]:
    """Evaluation mode for every module, then for each the mode it had: they need not agree."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
