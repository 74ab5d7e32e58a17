"""ResNet-20 for CIFAR (He et al., 2016) with filter response normalisation: 274k weights."""

from collections import OrderedDict

from torch import Tensor, nn

from experiments.models.frn import FilterResponseNorm
from experiments.models.stride import convolution, projection

BLOCKS_PER_STAGE = 3  # depth 6n + 2


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut. No activation but FRN's threshold; none after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, outputs, stride)
        self.norm1 = FilterResponseNorm(outputs)
        self.conv2 = convolution(outputs, outputs, 1)
        self.norm2 = FilterResponseNorm(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(projection(inputs, outputs, stride), FilterResponseNorm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        branch = self.norm2(self.conv2(self.norm1(self.conv1(x))))
        return branch + self.shortcut(x)


class ResNet20(nn.Module):
    """Three stages of `width`, 2 `width` and 4 `width` channels; any image side, the pool is adaptive."""

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), FilterResponseNorm(width))
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        inputs = width
        for stage in range(3):
            outputs = width * 2**stage
            for index in range(BLOCKS_PER_STAGE):
                blocks[f"{stage}_{index}"] = Block(inputs, outputs, stride=2 if inputs != outputs else 1)
                inputs = outputs
        self.blocks = nn.Sequential(blocks)
        self.classifier = nn.Linear(inputs, num_classes)

    def dropout_sites(self) -> list[str]:
        """MC-dropout masks behind these: each block's first normalised convolution, and its sum."""
        return [f"blocks.{name}{end}" for name, _ in self.blocks.named_children() for end in (".norm1", "")]

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(self.stem(images))
        return self.classifier(features.mean(dim=(-2, -1)))
