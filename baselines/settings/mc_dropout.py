"""Settings of MC-dropout."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from baselines.settings.base import Decay, NonNegative, Positive, Settings

if TYPE_CHECKING:
    from torch import nn

    from baselines.method import Method


class MCDropout(Settings):
    """SGD with dropout where the network's `dropout_sites()` are; see `baselines.mc_dropout`."""

    numbers_per_weight: ClassVar[int] = 2

    name: Literal["mc_dropout"] = "mc_dropout"
    lr: Positive
    momentum: Decay = 0.9
    weight_decay: NonNegative = 0.0
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.05  # part of the entries that a mask sets to zero

    def build(self, model: "nn.Module", *, train_size: int, seed: int) -> "Method":
        import torch

        from baselines import mc_dropout

        if not hasattr(model, "dropout_sites"):
            raise ValueError(
                f"MC-dropout: {type(model).__name__} has no dropout_sites(), "
                f"the names of the modules whose outputs get masks"
            )
        masks = mc_dropout.Masks(model, model.dropout_sites(), self.rate)  # type: ignore[operator]
        optimizer = torch.optim.SGD(
            model.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        return mc_dropout.MCDropout(masks, optimizer, seed=seed)
