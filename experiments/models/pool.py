"""The 4x4 average pool at the end of ResNet-18 and DenseNet-121."""

from torch import Tensor, nn
from torch.nn import functional


class BlockPool(nn.Module):
    """Mean over blocks of 4x4 pixels, flattened to (batch, channels x cells).

    A 32-pixel image ends as one block. A 64-pixel image (TinyImageNet) keeps 2x2 = 4 cells, so its
    classifier sees four times the features. A map smaller than 4x4 is averaged whole.
    """

    def __init__(self, map_side: int) -> None:
        super().__init__()
        self.kernel = min(4, map_side)
        self.cells = (map_side // self.kernel) ** 2

    def forward(self, features: Tensor) -> Tensor:
        return functional.avg_pool2d(features, self.kernel).flatten(1)
