"""Settings of the optimizers that learn a single network: SGD, AdamW, AdaHessian."""

from typing import TYPE_CHECKING, ClassVar, Literal

from baselines.settings.base import Decay, Groups, NonNegative, Positive, Settings

if TYPE_CHECKING:
    from torch import nn

    from baselines.method import Method


class SGD(Settings):
    """Heavy-ball SGD with coupled L2 regularisation, as in `torch.optim.SGD`."""

    numbers_per_weight: ClassVar[int] = 2

    name: Literal["sgd"] = "sgd"
    lr: Positive
    momentum: Decay = 0.9
    weight_decay: NonNegative = 0.0

    def build(
        self, model: "nn.Module", *, train_size: int, seed: int, groups: Groups | None = None
    ) -> "Method":
        import torch

        from baselines.point import PointEstimate

        return PointEstimate(
            torch.optim.SGD(
                groups or model.parameters(),
                lr=self.lr,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
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

    def build(
        self, model: "nn.Module", *, train_size: int, seed: int, groups: Groups | None = None
    ) -> "Method":
        import torch

        from baselines.point import PointEstimate

        return PointEstimate(
            torch.optim.AdamW(
                groups or model.parameters(),
                lr=self.lr,
                betas=(self.beta1, self.beta2),
                eps=self.eps,
                weight_decay=self.weight_decay,
                # At its fastest on GPUs, where costs are compared; on a CPU the default decides the bits.
                fused=True if next(model.parameters()).is_cuda else None,
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
