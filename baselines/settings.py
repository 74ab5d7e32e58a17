"""The settings of every method: what a specification of a run says of it, and how it is built from that.

Importing this file needs no PyTorch, so that tables and figures can be drawn from records alone.
"""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import nn

    from baselines.method import Method

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]  # the factor of an exponential moving average
Count = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """Frozen, complete and strict: a typo or a wrong type is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    # Differentiates the backward pass: cannot be compiled or data-parallel.
    double_backward: ClassVar[bool] = False


class SGD(Settings):
    """Heavy-ball SGD with coupled L2 regularisation, as in `torch.optim.SGD`."""

    name: Literal["sgd"] = "sgd"
    lr: Positive
    momentum: Decay = 0.9
    weight_decay: NonNegative = 0.0

    def build(self, model: "nn.Module", *, train_size: int, seed: int) -> "Method":
        import torch

        from baselines.point import PointEstimate

        return PointEstimate(
            torch.optim.SGD(
                model.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
            )
        )


class AdamW(Settings):
    """Adam with decoupled weight decay, as in `torch.optim.AdamW`."""

    name: Literal["adamw"] = "adamw"
    lr: Positive
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0

    def build(self, model: "nn.Module", *, train_size: int, seed: int) -> "Method":
        import torch

        from baselines.point import PointEstimate

        return PointEstimate(
            torch.optim.AdamW(
                model.parameters(),
                lr=self.lr,
                betas=(self.beta1, self.beta2),
                eps=self.eps,
                weight_decay=self.weight_decay,
            )
        )


class AdaHessian(Settings):
    """Adam with Hutchinson's estimate of the Hessian diagonal; see `baselines.adahessian`."""

    double_backward: ClassVar[bool] = True

    name: Literal["adahessian"] = "adahessian"
    lr: Positive
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0

    def build(self, model: "nn.Module", *, train_size: int, seed: int) -> "Method":
        import torch

        from baselines import adahessian
        from baselines.point import PointEstimate

        generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
        optimizer = adahessian.AdaHessian(
            model.parameters(),
            lr=self.lr,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            weight_decay=self.weight_decay,
            generator=generator,
        )
        return PointEstimate(optimizer, backward=optimizer.backward, generator=generator)


class IVON(Settings):
    """Variational learning with `ivon.IVON`; `ess=None` is the number of training examples (the paper's
    N).
    """

    name: Literal["ivon"] = "ivon"
    lr: Positive
    ess: Positive | None = None
    hess_init: Positive = 1.0
    beta1: Decay = 0.9
    beta2: Decay = 0.99999
    weight_decay: NonNegative = 1e-4
    mc_samples: Count = 1
    hess_approx: Literal["price", "gradsq"] = "price"
    clip_radius: Positive | None = None
    sync: bool = False  # under data parallelism: a draw of its own on every device, as in the paper
    rescale_lr: bool = True

    def build(self, model: "nn.Module", *, train_size: int, seed: int) -> "Method":
        from baselines.ivon import VariationalIVON
        from ivon import IVON as Optimizer

        optimizer = Optimizer(
            model.parameters(),
            lr=self.lr,
            ess=float(train_size if self.ess is None else self.ess),
            hess_init=self.hess_init,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=self.weight_decay,
            mc_samples=self.mc_samples,
            hess_approx=self.hess_approx,
            clip_radius=float("inf") if self.clip_radius is None else self.clip_radius,
            sync=self.sync,
            rescale_lr=self.rescale_lr,
        )
        optimizer.seed(seed)
        return VariationalIVON(optimizer, self.mc_samples, self.sync)
