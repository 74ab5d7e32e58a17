"""Time of one augmented batch of 50 CIFAR-sized images on one thread, against a loader of single images.

    python -m benchmarks.cifar_batches [--batches 200] [--rounds 5]

The peer is what most CIFAR scripts do: torch's DataLoader over torchvision's RandomCrop(32, padding=4), flip,
ToTensor and Normalize on Pillow images, in the same process. Both are timed in turns, in CPU seconds of one
thread, so that other work on the machine counts little.
"""

import argparse
import time
from collections.abc import Iterable
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from experiments.data import DATASETS
from experiments.data.batches import DeviceImages
from experiments.torchvision_guard import import_torchvision

BATCH = 50  # Sec. C.2
COUNT = 50_000
INFO = DATASETS["cifar10"]


class _Single(Dataset[tuple[torch.Tensor, int]]):
    """Single images as torchvision's CIFAR10 gives them."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        transforms: Any = import_torchvision("torchvision.transforms")
        self.images, self.labels = images, labels
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(INFO.side, padding=INFO.crop_padding),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(INFO.mean, INFO.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def milliseconds_per_batch(epoch: Iterable[Any], batches: int) -> float:
    """Time of the first `batches` batches of an epoch, the drawing of its order included, per batch."""
    begin = time.process_time()
    for _ in zip(range(batches), epoch, strict=False):
        pass
    return (time.process_time() - begin) / batches * 1e3


def main() -> None:
    """Print both times and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (COUNT, INFO.side, INFO.side, 3), dtype=np.uint8)
    labels = rng.integers(0, INFO.num_classes, COUNT)
    ours = DeviceImages(
        images,
        labels,
        device="cpu",
        mean=INFO.mean,
        std=INFO.std,
        crop_padding=INFO.crop_padding,
        flip=INFO.flip,
    )
    peer = DataLoader(_Single(images, labels), batch_size=BATCH, shuffle=True, drop_last=True)
    times: list[list[float]] = [[], []]
    for round_ in range(options.rounds + 1):
        times[0].append(milliseconds_per_batch(ours.epoch(0, round_, BATCH), options.batches))
        times[1].append(milliseconds_per_batch(peer, options.batches))
    mine, theirs = (median(taken[1:]) for taken in times)  # the first round warms up
    print(
        f"batch of {BATCH}: {mine:.2f} ms, DataLoader of torchvision transforms {theirs:.2f} ms: "
        f"{theirs / mine:.1f} times as fast"
    )


if __name__ == "__main__":
    main()
