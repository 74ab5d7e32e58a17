"""From bytes to what a network sees, on the device: mirroring and normalisation of whole batches."""

import torch
from torch import Tensor


class Normaliser:
    """(x / 255 - mean) / std for batches of bytes of one size, bit for bit alike however a batch is cut.

    Subtraction and multiplication are two rounded steps on purpose: a fused one may round differently in a
    vector's remainder, and an image's bits would then depend on its place in the batch. The constants are
    laid out for a whole image since broadcasting along 3 channels only would leave inner loops of length 3.
    """

    def __init__(
        self, mean: tuple[float, ...], std: tuple[float, ...], height: int, width: int, device: torch.device
    ) -> None:
        shift = torch.tensor(mean, dtype=torch.float64) * 255
        scale = 1 / (torch.tensor(std, dtype=torch.float64) * 255)
        shape = (height, width, len(mean))
        self.shift = shift.to(torch.float32).expand(shape).contiguous().to(device)
        self.scale = scale.to(torch.float32).expand(shape).contiguous().to(device)

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (B, H, W, C) to float32 (B, C, H, W) in channels_last layout."""
        return pixels.to(torch.float32).sub_(self.shift).mul_(self.scale).permute(0, 3, 1, 2)


def mirror(pixels: Tensor, mask: Tensor) -> Tensor:
    """Mirror left to right the images of uint8 (B, H, W, C) whose entry in the uint8 mask (B,) is 255, not 0.

    x ^ ((mirrored ^ x) & mask) picks one of two bytes; it is many times faster than torch.where on bytes.
    """
    return pixels.flip(2).bitwise_xor_(pixels).bitwise_and_(mask.view(-1, 1, 1, 1)).bitwise_xor_(pixels)
