"""Images per second and core of ImageNet's training pipeline, against torchvision's usual one on Pillow.

    python -m benchmarks.imagenet_loader [--images 96] [--rounds 5] [--rate 2500] [--quality 90]

The peer is what most ImageNet scripts do in a worker: decode the whole file with Pillow, RandomResizedCrop,
flip, ToTensor, Normalize, stack floats. Ours crops to bytes in the worker and leaves flip and normalisation
to the device. Both read the same files, cut from scikit-learn's two photographs, in turns, and are timed in
CPU seconds of one thread, so that other work on the machine counts little. ImageNet's files have 115 kB on
average (148 GB, 1.28 million files), and decoding time grows with the size of the file: see what is printed.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from experiments.data import DATASETS
from experiments.data.imagenet.files import ImageListing, list_images
from experiments.data.imagenet.stream import Decoder, Request
from experiments.torchvision_guard import import_torchvision

TYPICAL = (500, 375)  # most of ImageNet
LARGE = (1600, 1200)  # its tail
SIDE = 224
GPUS = 8


def make_layout(folder: Path, count: int, size: tuple[int, int], quality: int) -> ImageListing:
    """`count` random parts of the two photographs as one class; for a larger size they are enlarged."""
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the photographs come with scikit-learn, which is not installed")
    source = Path(spec.submodule_search_locations[0]) / "datasets" / "images"
    photos = [Image.open(source / name).convert("RGB") for name in ("china.jpg", "flower.jpg")]
    rng = np.random.default_rng(0)
    width, height = TYPICAL
    (folder / "n00000000").mkdir(parents=True)
    for place in range(count):
        photo = photos[place % 2]
        left = int(rng.integers(photo.width - width + 1))
        top = int(rng.integers(photo.height - height + 1))
        part = photo.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.BICUBIC)
        part.save(folder / "n00000000" / f"{place:04d}.JPEG", "JPEG", quality=quality)
    return list_images(folder)


def ours(listing: ImageListing) -> Callable[[int], Any]:
    """What one of our workers does for an epoch."""
    decoder = Decoder(listing, SIDE)
    everything = np.arange(len(listing.names))
    return lambda epoch: decoder[Request(everything, (0, epoch))]


def peer(listing: ImageListing) -> Callable[[int], Any]:
    """What a worker of a usual script does for an epoch."""
    transforms: Any = import_torchvision("torchvision.transforms")
    info = DATASETS["imagenet"]
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIDE),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(info.mean, info.std),
        ]
    )
    files = [listing.folder / name.decode() for name in listing.names.tolist()]
    return lambda _: torch.stack([transform(Image.open(file).convert("RGB")) for file in files])


def compare(size: tuple[int, int], count: int, rounds: int, quality: int) -> tuple[float, float, float]:
    """Images per CPU second of ours and of the peer, medians over rounds in turns; kilobytes of a file."""
    with tempfile.TemporaryDirectory() as folder:
        listing = make_layout(Path(folder) / "train", count, size, quality)
        bytes_each = sum(file.stat().st_size for file in Path(folder).rglob("*.JPEG")) / count
        pipelines = [ours(listing), peer(listing)]
        seconds: list[list[float]] = [[], []]
        for epoch in range(rounds + 1):
            for taken, run in zip(seconds, pipelines, strict=True):
                begin = time.process_time()
                run(epoch)
                taken.append(time.process_time() - begin)
    mine, theirs = (count / median(taken[1:]) for taken in seconds)  # the first round warms up
    return mine, theirs, bytes_each / 1000


def main() -> None:
    """Print one line per image size, and how many cores feed a machine of eight GPUs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=96, help="files of each size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=2500, help="images a second that one GPU trains on")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEG files")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for size in (TYPICAL, LARGE):
        mine, theirs, kilobytes = compare(size, options.images, options.rounds, options.quality)
        need, peer_needs = (np.ceil(GPUS * options.rate / rate).astype(int) for rate in (mine, theirs))
        print(
            f"{size[0]}x{size[1]}, {kilobytes:.0f} kB: {mine:.0f} images/s per core, "
            f"torchvision on Pillow {theirs:.0f}: {mine / theirs:.2f} times as many; "
            f"{GPUS} GPUs at {options.rate:.0f} images/s each are fed by {need} cores instead of {peer_needs}"
        )


if __name__ == "__main__":
    main()
