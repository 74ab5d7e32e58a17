"""ResNet-50 for ImageNet, version 1.5 (stride in the 3x3 convolution), with filter response normalisation."""

from collections import OrderedDict

from torch import Tensor, nn

from experiments.models.frn import FilterResponseNorm
from experiments.models.stride import halving_stride, projection

BLOCKS_PER_STAGE = (3, 4, 6, 3)
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 beside a shortcut; no ReLU anywhere, FRN's threshold is the only nonlinearity."""

    def __init__(self, inputs: int, middle: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * middle
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.norm1 = FilterResponseNorm(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride=stride, padding=1, bias=False)
        self.norm2 = FilterResponseNorm(middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1, bias=False)
        self.norm3 = FilterResponseNorm(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(
                projection(inputs, outputs, stride, bias=False), FilterResponseNorm(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        branch = self.norm2(self.conv2(self.norm1(self.conv1(x))))
        return self.norm3(self.conv3(branch)) + self.shortcut(x)


class ResNet50(nn.Module):
    """Four stages of `width` to 8 `width` inner channels; any image side, the last pool is adaptive."""

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 64, side: int = 224) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False),
            FilterResponseNorm(width),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        inputs = width
        side = -(-side // 4)  # the stem halves it twice
        for stage, depth in enumerate(BLOCKS_PER_STAGE):
            middle = width * 2**stage
            for index in range(depth):
                stride = halving_stride(side) if stage > 0 and index == 0 else 1
                blocks[f"{stage}_{index}"] = Bottleneck(inputs, middle, stride)
                inputs, side = EXPANSION * middle, -(-side // stride)
        self.blocks = nn.Sequential(blocks)
        self.classifier = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def dropout_sites(self) -> list[str]:
        """MC-dropout masks behind these: each block's first normalised convolution, and its sum."""
        return [f"blocks.{name}{end}" for name, _ in self.blocks.named_children() for end in (".norm1", "")]

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(self.stem(images))
        return self.classifier(features.mean(dim=(-2, -1)))
