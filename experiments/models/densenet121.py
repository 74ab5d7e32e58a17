"""DenseNet-121 (Huang et al., 2017), growth 12, 3x3 stem, filter response normalisation: 1.0M weights."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from experiments.models.frn import FilterResponseNorm
from experiments.models.pool import BlockPool
from experiments.models.stride import halving_stride

LAYERS_PER_BLOCK = (6, 12, 24, 16)


class DenseLayer(nn.Module):
    """Appends `growth` channels to its input, through a 1x1 bottleneck of 4 `growth` channels."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1 = FilterResponseNorm(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = FilterResponseNorm(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        grown = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        return torch.cat((grown, x), dim=1)


def transition(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Fewer channels and, with stride 2, half the side between two dense blocks."""
    return nn.Sequential(
        FilterResponseNorm(inputs), nn.Conv2d(inputs, outputs, 1, bias=False), nn.AvgPool2d(stride)
    )


class DenseNet121(nn.Module):
    """`width` is the growth rate; the classifier grows with images above 32 pixels."""

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 12, side: int = 32) -> None:
        super().__init__()
        channels = 2 * width
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["stem"] = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        for block, depth in enumerate(LAYERS_PER_BLOCK):
            for index in range(depth):
                layers[f"dense{block}_{index}"] = DenseLayer(channels, width)
                channels += width
            if block + 1 < len(LAYERS_PER_BLOCK):
                stride = halving_stride(side)
                layers[f"transition{block}"] = transition(channels, channels // 2, stride)  # reduction 0.5
                channels, side = channels // 2, side // stride
        layers["norm"] = FilterResponseNorm(channels)
        layers["relu"] = nn.ReLU()  # as released: FRN's learned threshold may lie below 0
        self.features = nn.Sequential(layers)
        self.pool = BlockPool(side)
        self.classifier = nn.Linear(channels * self.pool.cells, num_classes)

    def dropout_sites(self) -> list[str]:
        """MC-dropout masks behind these: each layer's normalised bottleneck, and its new channels.

        There are no sums here, and channels that are handed on have been masked when they were new.
        """
        layers = [name for name, module in self.named_modules() if isinstance(module, DenseLayer)]
        return [f"{layer}.{end}" for layer in layers for end in ("norm2", "conv2")]

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(images)))
