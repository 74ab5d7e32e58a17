"""Posterior-averaged predictions of a classifier."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ivon._passes import average
from ivon._placing import matching
from ivon.mixture import Mixture
from ivon.posterior import Posterior


@torch.no_grad()
def predict(model: nn.Module, inputs: Any, n_samples: int = 64, *, posterior: Any, seed: int = 0) -> Tensor:
    """Log-probabilities (N, C): the log of the softmax of the logits averaged over `n_samples` draws.

    `posterior` is the IVON that trained the model (or a wrapper of it), a `Posterior` or a `Mixture`.
    `n_samples=0` predicts with the mean of the posterior ("IVON@mean"), with a mixture by averaging over the
    means of its members. The logits are `model(inputs)`, or `model(**inputs)` for a dict, or the attribute
    `logits` of either. A model is in evaluation mode meanwhile, and unchanged afterwards. The average is
    taken in log space in float32 at least.

        log_probs = ivon.predict(model, images, posterior=optimizer)

    The draws are a function of `seed`: every call, batch and rank has the same `n_samples` models. So a test
    set is predicted batch by batch, as if it were one batch:

        posterior = ivon.Posterior.of(model, optimizer)
        log_probs = torch.cat([ivon.predict(model, x, posterior=posterior) for x, _ in loader])

    Small passes are made for many draws at a time with `torch.vmap`, if the model allows it; the numbers are
    the same up to rounding.
    """
    if isinstance(n_samples, bool) or not isinstance(n_samples, int) or n_samples < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"n_samples must be an integer >= 0 (0: the posterior mean), got {n_samples!r}")
    if not isinstance(posterior, Posterior | Mixture):
        posterior = Posterior.of(model, posterior)
    members = posterior.members if isinstance(posterior, Mixture) else (posterior,)
    params = matching(model, members[0].mean, members[0].fixed)

    def means(chosen: Sequence[int]) -> dict[str, Tensor]:
        return {name: torch.stack([members[i].mean[name] for i in chosen]) for name in params}

    with _evaluation_mode(model):
        if n_samples == 0:
            weights = posterior.weights if isinstance(posterior, Mixture) else [1.0]
            return average(model, inputs, params, means, weights)
        shares = [1 / n_samples] * n_samples
        return average(model, inputs, params, lambda ks: posterior.draws(ks, seed), shares)


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for every module, then for each the mode it had: they need not agree."""
    modules = list(model.modules())
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
