"""Where and how a network halves its maps, also for images smaller than it was made for, and when narrow."""

from torch import Tensor, nn
from torch.nn import functional

# With fewer channels, but more than one, a strided 1x1 convolution in the memory format channels_last crashes
# in the gradient of its weights: oneDNN in PyTorch 2.13 writes beyond its memory (seen on a CPU with AVX2).
SAFE_CHANNELS = 8


def halving_stride(side: int) -> int:
    """2, or 1 where a map of `side` pixels would become a single pixel.

    The root mean square of one pixel is its own size: filter response normalisation would leave nothing but
    its sign, and no gradient would pass. None of the paper's networks comes so far on the paper's images;
    8x8 digits do in the networks that halve more than twice.
    """
    return 2 if side >= 4 else 1


class Subsampling(nn.Module):
    """Every `stride`-th pixel of every `stride`-th row."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride]


class SamePadding(nn.Module):
    """Zeros around a map for a 3x3 convolution of stride 2: as few as give ceil(side / 2) pixels.

    One more below and on the right than above and on the left where the side is even, TensorFlow's "same":
    windows then begin at every second pixel, as those of the 1x1 shortcut beside them do.
    """

    def forward(self, x: Tensor) -> Tensor:
        above, left = (side % 2 for side in x.shape[-2:])
        return functional.pad(x, (left, 1, above, 1))


def convolution(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The 3x3 convolution of a CIFAR residual block; a map of n pixels becomes one of ceil(n / stride)."""
    if stride == 1:
        return nn.Conv2d(inputs, outputs, 3, padding=1)
    return nn.Sequential(SamePadding(), nn.Conv2d(inputs, outputs, 3, stride=stride))


def projection(inputs: int, outputs: int, stride: int, *, bias: bool = True) -> nn.Module:
    """A 1x1 convolution of every `stride`-th pixel: the shortcut of a block that changes shape."""
    if stride == 1 or inputs >= SAFE_CHANNELS:
        return nn.Conv2d(inputs, outputs, 1, stride=stride, bias=bias)
    return nn.Sequential(Subsampling(stride), nn.Conv2d(inputs, outputs, 1, bias=bias))
