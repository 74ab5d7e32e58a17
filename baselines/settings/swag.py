"""Settings of SWAG."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from baselines.settings.base import Count, Decay, NonNegative, Positive, Settings

if TYPE_CHECKING:
    from torch import nn

    from baselines.method import Method


class SWAG(Settings):
    """SGD by the run's schedule, then at a constant rate while iterates are collected: `baselines.swag`.

    The paper's 200 epochs: the schedule's cosine is 160 epochs long, the constant phase the 40 after them.
    """

    numbers_per_weight: ClassVar[int] = 24  # weight, momentum, mean, squares and 20 deviations

    name: Literal["swag"] = "swag"
    lr: Positive  # the peak of the schedule
    momentum: Decay = 0.9
    weight_decay: NonNegative = 0.0
    swag_lr: Positive = 0.01
    swag_part: Annotated[float, Field(gt=0, le=1)] = 0.2  # of all epochs, the last ones, at least one
    collections: Count = 40  # iterates, evenly over that phase
    rank: Annotated[int, Field(ge=2)] = 20

    def build(self, model: "nn.Module", *, train_size: int, seed: int) -> "Method":
        import torch

        from baselines import swag

        optimizer = torch.optim.SGD(
            model.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        gaussian = swag.IterateGaussian(model.parameters(), self.rank)
        return swag.SWAG(
            gaussian, optimizer, lr=self.swag_lr, part=self.swag_part, collections=self.collections
        )
