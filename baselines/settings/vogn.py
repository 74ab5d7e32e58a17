"""Settings of VOGN and OGN."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from baselines.settings.base import Count, Decay, NonNegative, Positive, Settings

if TYPE_CHECKING:
    from torch import nn

    from baselines.method import Method

Share = Annotated[float, Field(gt=0, le=1)]


class _GaussNewton(Settings):
    """What VOGN and OGN share; see `baselines.vogn`.

    The defaults are those of the source's released run of ResNet-18 on CIFAR-10 with random crops and flips,
    but for `mc_samples` (5 there) and `norm_posterior`: the source leaves the parameters of its batch
    normalisation out, the paper's filter response normalisation has a posterior like all other weights.
    """

    lr: Positive
    beta1: Decay = 0.9
    beta2: Share = 0.999  # weight of the new curvature
    prior_precision: Positive = 50.0
    damping: NonNegative = 1e-3
    data_factor: Positive = 10.0  # augmentation makes the data set that much larger
    tau: Share = 1.0  # weight of the KL
    warmup_steps: Annotated[int, Field(ge=0)] = 0  # in which tau rises to its value
    norm_posterior: bool = True

    @model_validator(mode="after")
    def _steps_are_finite(self) -> Self:
        if not self.norm_posterior and self.damping == 0:
            raise ValueError("norm_posterior false needs damping > 0, got 0: nothing else bounds those steps")
        return self

    def _build(self, model: "nn.Module", *, train_size: int, seed: int, mc_samples: int) -> "Method":
        from baselines.vogn import VOGN as Optimizer
        from baselines.vogn import VariationalOnlineGaussNewton, weights_and_norms

        weights, norms = weights_and_norms(model)
        groups = [{"params": weights, "posterior": True}, {"params": norms, "posterior": self.norm_posterior}]
        optimizer = Optimizer(
            [group for group in groups if group["params"]],
            lr=self.lr,
            data_size=train_size,
            prior_precision=self.prior_precision,
            beta1=self.beta1,
            beta2=self.beta2,
            damping=self.damping,
            data_factor=self.data_factor,
            tau=self.tau,
            warmup_steps=self.warmup_steps,
            mc_samples=mc_samples,
            seed=seed,
        )
        return VariationalOnlineGaussNewton(model, optimizer)


class VOGN(_GaussNewton):
    """Variational online Gauss-Newton: gradients of single examples at posterior draws."""

    name: Literal["vogn"] = "vogn"
    mc_samples: Count = 1

    @property
    def draws_by_process(self) -> bool:
        return True

    def build(self, model: "nn.Module", *, train_size: int, seed: int) -> "Method":
        return self._build(model, train_size=train_size, seed=seed, mc_samples=self.mc_samples)


class OGN(_GaussNewton):
    """Online Gauss-Newton: VOGN with the gradients at the mean, and with the mean as its prediction."""

    name: Literal["ogn"] = "ogn"

    def build(self, model: "nn.Module", *, train_size: int, seed: int) -> "Method":
        return self._build(model, train_size=train_size, seed=seed, mc_samples=0)
