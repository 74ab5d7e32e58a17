"""ResNet-18 with a 3x3 stem for small images and filter response normalisation: 11.2M weights."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from experiments.models.frn import FilterResponseNorm
from experiments.models.pool import BlockPool
from experiments.models.stride import halving_stride, projection

BLOCKS_PER_STAGE = 2


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut; here, unlike in ResNet-20, a ReLU follows the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = FilterResponseNorm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = FilterResponseNorm(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(
                projection(inputs, outputs, stride, bias=False), FilterResponseNorm(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        branch = self.norm2(self.conv2(self.norm1(self.conv1(x))))
        return torch.relu(branch + self.shortcut(x))


class ResNet18(nn.Module):
    """Four stages of `width` to 8 `width` channels; the classifier grows with images above 32 pixels."""

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 64, side: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False), FilterResponseNorm(width)
        )
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        inputs = width
        for stage in range(4):
            outputs = width * 2**stage
            for index in range(BLOCKS_PER_STAGE):
                stride = halving_stride(side) if inputs != outputs else 1
                blocks[f"{stage}_{index}"] = Block(inputs, outputs, stride)
                inputs, side = outputs, -(-side // stride)
        self.blocks = nn.Sequential(blocks)
        self.pool = BlockPool(side)
        self.classifier = nn.Linear(inputs * self.pool.cells, num_classes)

    def dropout_sites(self) -> list[str]:
        """MC-dropout masks behind these: each block's first normalised convolution, and its sum."""
        return [f"blocks.{name}{end}" for name, _ in self.blocks.named_children() for end in (".norm1", "")]

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.pool(self.blocks(self.stem(images))))
