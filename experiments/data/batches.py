"""Images that live on the device as bytes: a batch costs one gather, one flip and one normalisation."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from experiments.data.holdout import split_holdout
from experiments.data.order import epoch_generator, epoch_order, share_of_batch, steps_per_epoch
from experiments.data.pixels import Normaliser, mirror

__all__ = ["Batch", "DeviceImages", "split_holdout"]

Batch = tuple[Tensor, Tensor]  # images float32 (B, C, H, W) in channels_last layout, labels int64 (B,)


class DeviceImages:
    """A labelled set of equally large images, zero-padded once, with random crops as windows into it."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        device: torch.device | str,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        crop_padding: int = 0,
        flip: bool = False,
    ) -> None:
        """Copy uint8 images (N, H, W, C) and their labels (N,) to the device."""
        count, height, width, channels = images.shape
        self.device = torch.device(device)
        self.labels = torch.as_tensor(labels, dtype=torch.int64).to(self.device)
        self.crop_padding, self.flip = crop_padding, flip
        self._normalise = Normaliser(mean, std, height, width, self.device)

        pad = crop_padding
        self._padded = torch.zeros(
            (count, height + 2 * pad, width + 2 * pad, channels), dtype=torch.uint8, device=self.device
        )
        self._originals = self._padded[:, pad : pad + height, pad : pad + width]
        self._originals.copy_(torch.from_numpy(np.require(images, np.uint8, ["C", "W"])))
        # All windows, without a copy: [image, top, left] is a crop (H, W * C), its rows adjacent bytes.
        row = (width + 2 * pad) * channels
        self._windows = self._padded.as_strided(
            (count, 2 * pad + 1, 2 * pad + 1, height, width * channels),
            ((height + 2 * pad) * row, row, channels, row, 1),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def steps(self, batch_size: int) -> int:
        """Batches in an epoch; a last, smaller one is dropped."""
        return steps_per_epoch(len(self), batch_size)

    def epoch(
        self, seed: int, epoch: int, batch_size: int, *, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Shuffled, augmented batches `start`, `start` + 1, ... of one epoch; of each, the share of `rank`.

        Order, crops and flips of the whole epoch are a function of (seed, epoch) alone.
        """
        share = share_of_batch(batch_size, rank, world)
        return self._epoch(seed, epoch, batch_size, range(start, self.steps(batch_size)), share)

    def _epoch(self, seed: int, epoch: int, batch_size: int, steps: range, share: slice) -> Iterator[Batch]:
        count = len(self)
        generator = epoch_generator(seed, epoch)
        order = epoch_order(count, generator)
        corners = torch.randint(2 * self.crop_padding + 1, (2, count), generator=generator)
        mask = torch.randint(2, (count,), generator=generator).mul_(255 if self.flip else 0)
        order, top, left, mask = (t.to(self.device) for t in (order, *corners, mask.to(torch.uint8)))
        for step in steps:
            here = slice(step * batch_size + share.start, step * batch_size + share.stop)
            images = order[here]
            pixels = self._windows[images, top[here], left[here]].view(-1, *self._originals.shape[1:])
            if self.flip:
                pixels = mirror(pixels, mask[here])
            yield self._normalise(pixels), self.labels[images]

    def batches(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Every image once, as it is, in order; of each batch the share of `rank`; the last may be small."""
        share = share_of_batch(batch_size, rank, world)
        return self._batches(batch_size, share)

    def _batches(self, batch_size: int, share: slice) -> Iterator[Batch]:
        for first in range(0, len(self), batch_size):
            here = slice(first + share.start, min(first + share.stop, len(self)))
            if here.start < here.stop:  # a small last batch may not reach every rank
                yield self._normalise(self._originals[here]), self.labels[here]
