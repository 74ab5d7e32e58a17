"""Outputs of a model averaged over its posterior: the draws or means, the passes, the model as it was."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn, stack

from ivon._passes import Average, average
from ivon._placing import matching
from ivon.mixture import Mixture
from ivon.posterior import Posterior

T = TypeVar("T")


def over_posterior(
    model: nn.Module, inputs: Any, n_samples: int, posterior: Any, seed: int, of: Average[T]
) -> T:
    """The average `of` the outputs over `n_samples` draws; over the means, by their weights, if it is 0.

    `posterior` is an IVON or a wrapper of one, a `Posterior` or a `Mixture`. Each is validated before any
    pass; the model is in evaluation mode meanwhile, and unchanged afterwards.
    """
    if isinstance(n_samples, bool) or not isinstance(n_samples, int) or n_samples < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"n_samples must be an integer >= 0 (0: the posterior mean), got {n_samples!r}")
    if not isinstance(posterior, Posterior | Mixture):
        posterior = Posterior.of(model, posterior)
    members = posterior.members if isinstance(posterior, Mixture) else (posterior,)
    params = matching(model, members[0].mean, members[0].fixed)

    def means(chosen: Sequence[int]) -> dict[str, Tensor]:
        return {name: stack([members[i].mean[name] for i in chosen]) for name in params}

    with _evaluation_mode(model):
        if n_samples == 0:
            weights = posterior.weights if isinstance(posterior, Mixture) else [1.0]
            return average(model, inputs, params, means, weights, of)
        shares = [1 / n_samples] * n_samples
        return average(model, inputs, params, lambda ks: posterior.draws(ks, seed), shares, of)


def tensor_of(outputs: Any, what: str) -> Tensor:
    """The outputs, or their attribute `logits`, where Hugging Face's models have them."""
    tensor = getattr(outputs, "logits", outputs)
    if not isinstance(tensor, Tensor):
        raise ValueError(f"model must return {what}, got {type(outputs).__name__}")
    return tensor


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
