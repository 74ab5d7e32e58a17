"""Pre-activation ResNet-110 (He et al., 2016b) with filter response normalisation: 3.9M weights."""

from collections import OrderedDict

from torch import Tensor, nn

from experiments.models.frn import FilterResponseNorm
from experiments.models.stride import convolution, projection

BLOCKS_PER_STAGE = 18  # depth 6n + 2


class PreActivationBlock(nn.Module):
    """Norm before each convolution. Where the shape changes the shortcut is a bare 1x1 convolution of the
    normalised input, as in the released code; elsewhere it is the input itself."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = FilterResponseNorm(inputs)
        self.conv1 = convolution(inputs, outputs, stride)
        self.norm2 = FilterResponseNorm(outputs)
        self.conv2 = convolution(outputs, outputs, 1)
        self.shortcut = projection(inputs, outputs, stride) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        normalised = self.norm1(x)
        branch = self.conv2(self.norm2(self.conv1(normalised)))
        return branch + (x if self.shortcut is None else self.shortcut(normalised))


class PreResNet110(nn.Module):
    """Three stages of `width`, 2 `width` and 4 `width` channels; any image side, the pool is adaptive."""

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 24) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), FilterResponseNorm(width))
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        inputs = width
        for stage in range(3):
            outputs = width * 2**stage
            for index in range(BLOCKS_PER_STAGE):
                stride = 2 if inputs != outputs else 1
                blocks[f"{stage}_{index}"] = PreActivationBlock(inputs, outputs, stride)
                inputs = outputs
        self.blocks = nn.Sequential(blocks)
        self.norm = FilterResponseNorm(inputs)
        self.classifier = nn.Linear(inputs, num_classes)

    def dropout_sites(self) -> list[str]:
        """MC-dropout masks behind these: each block's first normalised convolution, and its sum."""
        return [f"blocks.{name}{end}" for name, _ in self.blocks.named_children() for end in (".norm2", "")]

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.blocks(self.stem(images)))
        return self.classifier(features.mean(dim=(-2, -1)))
