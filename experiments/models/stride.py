"""Where and how a network halves its maps, also for images smaller than it was made for, and when narrow."""

from torch import Tensor, nn

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


def projection(inputs: int, outputs: int, stride: int, *, bias: bool = True) -> nn.Module:
    """A 1x1 convolution of every `stride`-th pixel: the shortcut of a block that changes shape."""
    if stride == 1 or inputs >= SAFE_CHANNELS:
        return nn.Conv2d(inputs, outputs, 1, stride=stride, bias=bias)
    return nn.Sequential(Subsampling(stride), nn.Conv2d(inputs, outputs, 1, bias=bias))
