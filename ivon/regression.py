"""Posterior-averaged predictions of real numbers: the mean, and of what its variance consists."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ivon._averaging import over_posterior, tensor_of

SECOND = ("variance", "log_variance")


@dataclass(frozen=True, kw_only=True, eq=False)
class PredictiveMoments:
    """Mean and variance of what may be observed, each of the shape of the model's outputs.

    mean: of the draws' means.
    epistemic: the variance of the draws' means, what the posterior does not know. Of n draws it is the mean
        square of the distances from their mean: (n - 1) / n of the posterior's in expectation.
    aleatoric: the mean of the draws' variances, the noise of an observation; None if nobody has told it.
    """

    mean: Tensor
    epistemic: Tensor
    aleatoric: Tensor | None

    @property
    def variance(self) -> Tensor:
        """Of an observation, epistemic + aleatoric (the law of total variance); ValueError without noise."""
        if self.aleatoric is None:
            raise ValueError(
                "the variance of an observation needs its noise, which is not known: give noise_variance, or "
                "a model that returns a pair; what the posterior does not know alone is `epistemic`"
            )
        return self.epistemic + self.aleatoric


@torch.no_grad()
def predict_regression(
    model: nn.Module,
    inputs: Any,
    n_samples: int = 64,
    *,
    posterior: Any,
    second: str | None = None,
    noise_variance: float | Tensor | None = None,
    seed: int = 0,
) -> PredictiveMoments:
    """Mean and variance of the outputs over `n_samples` draws, the variance in its two parts.

    Inputs, `posterior`, `n_samples=0` and `seed` are as in `ivon.predict`. With the mean of one posterior
    nothing is epistemic; with those of a mixture it is how far they are apart. The model returns

    - a tensor, or an object that has it as `logits`: the mean, and the noise is `noise_variance` (a number,
      or a tensor that fits the outputs, such as one for each of several targets) or not known;
    - a pair of tensors of one shape, the mean and `second`: "variance", or "log_variance" (natural);
    - a `torch.distributions.Distribution`, which has both: for one logit `Bernoulli(logits=z)`.

        found = ivon.predict_regression(model, x, posterior=optimizer, noise_variance=0.1**2)
        low, high = found.mean - 2 * found.variance.sqrt(), found.mean + 2 * found.variance.sqrt()

    Sums are in float32 at least. The parts are named as by Kendall and Gal (2017, Eq. 9).
    """
    if second is not None and second not in SECOND:
        raise ValueError(f"second must be one of {', '.join(SECOND)}; got {second!r}")
    if noise_variance is not None:
        given = torch.as_tensor(noise_variance)
        if not bool((given.isfinite() & (given >= 0)).all()):
            raise ValueError(f"noise_variance must be finite and >= 0, got {noise_variance!r}")
        if second is not None:
            raise ValueError("noise_variance is for models without a variance of their own; second is given")
    sums = over_posterior(model, inputs, n_samples, posterior, seed, _Moments(second, noise_variance))
    if sums.lowest is not None and second == "variance" and bool(sums.lowest < 0):
        raise ValueError(
            f"the model's variances must be >= 0, got {float(sums.lowest):.3g}; logarithms of variances are "
            f'second="log_variance"'
        )
    epistemic, aleatoric = sums.square / sums.weight, sums.variance
    if aleatoric is not None:
        aleatoric = aleatoric / sums.weight
    elif noise_variance is not None:
        aleatoric = torch.as_tensor(noise_variance).to(sums.mean).expand_as(sums.mean)
    return PredictiveMoments(mean=sums.mean, epistemic=epistemic, aleatoric=aleatoric)


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """Of passes of a total weight: their mean, weighted squares of the distances from it, variances."""

    weight: float
    mean: Tensor
    square: Tensor
    variance: Tensor | None
    lowest: Tensor | None  # of the variances


class _Moments:
    """First and second moments of outputs, by the pairwise update of Chan et al. (1983).

    The mean square less the square of the mean would lose a small variance beside a large mean.
    """

    def __init__(self, second: str | None, noise_variance: float | Tensor | None) -> None:
        self._second, self._noise = second, noise_variance

    def read(self, outputs: Any) -> Tensor:
        """The mean, and the variance if there is one, stacked."""
        mean, variance = self._parts(outputs)
        if not mean.is_floating_point():
            raise ValueError(f"model must return real numbers, got {mean.dtype}")
        if variance is None:
            self._check_noise(mean)
            return _exact(mean)[None]
        if variance.shape != mean.shape:
            raise ValueError(
                f"the model's mean and {self._second or 'variance'} must be of one shape, "
                f"got {tuple(mean.shape)} and {tuple(variance.shape)}"
            )
        variance = _exact(variance)
        return torch.stack([_exact(mean), variance.exp() if self._second == "log_variance" else variance])

    def add(self, total: _Sums | None, each: Tensor, weights: Sequence[float]) -> _Sums:
        weight = math.fsum(weights)
        column = each.new_tensor(weights).view(-1, *[1] * (each.dim() - 2))
        means, variances = each[:, 0], each[:, 1] if each.shape[1] == 2 else None
        mean = (column * means).sum(0) / weight
        square = (column * (means - mean).square()).sum(0)
        variance = None if variances is None else (column * variances).sum(0)
        lowest = None if variances is None or not variances.numel() else variances.min()
        if total is None:
            return _Sums(weight=weight, mean=mean, square=square, variance=variance, lowest=lowest)
        both, apart = total.weight + weight, mean - total.mean
        return _Sums(
            weight=both,
            mean=total.mean + apart * (weight / both),
            square=total.square + square + apart.square() * (total.weight * weight / both),
            variance=None if variance is None or total.variance is None else total.variance + variance,
            lowest=None if lowest is None or total.lowest is None else torch.minimum(total.lowest, lowest),
        )

    def _parts(self, outputs: Any) -> tuple[Tensor, Tensor | None]:
        if isinstance(outputs, Distribution):
            if self._noise is not None or self._second is not None:
                name = "second" if self._noise is None else "noise_variance"
                raise ValueError(f"{name} is not for a model that returns a distribution, with its variance")
            return outputs.mean, outputs.variance
        pair = outputs if isinstance(outputs, tuple | list) else None
        if pair is not None and len(pair) == 2 and all(isinstance(part, Tensor) for part in pair):
            if self._second is None:
                raise ValueError(
                    f"second must be given, as the model returns a pair: one of {', '.join(SECOND)} beside "
                    f"the mean"
                )
            return pair[0], pair[1]
        if self._second is not None:
            raise ValueError(f"model must return a pair (mean, {self._second}), got {type(outputs).__name__}")
        return tensor_of(outputs, "a tensor, a pair of tensors or a distribution"), None

    def _check_noise(self, mean: Tensor) -> None:
        if isinstance(self._noise, Tensor):
            try:
                self._noise.expand(mean.shape)
            except RuntimeError:
                raise ValueError(
                    f"noise_variance must fit outputs of shape {tuple(mean.shape)}, "
                    f"got shape {tuple(self._noise.shape)}"
                ) from None


def _exact(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
