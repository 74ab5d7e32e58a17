"""The data sets, by name, and how to open one. Importing this is cheap: readers are imported when called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.data.info import ArraySplits, DatasetInfo
from experiments.data.root import data_root, nothing_to_check
from experiments.errors import UserError

if TYPE_CHECKING:
    import torch

    from experiments.data.batches import DeviceImages
    from experiments.data.imagenet.stream import StreamedImages

__all__ = ["DATASETS", "ArraySplits", "DatasetInfo", "data_root", "open_split"]

HOLDOUT_SEED = 0  # which training images are held out must not change from run to run


def _check_cifar10(root: Path) -> None:
    from experiments.data.readers.cifar import CIFAR10, check

    check(root, CIFAR10)


def _check_cifar100(root: Path) -> None:
    from experiments.data.readers.cifar import CIFAR100, check

    check(root, CIFAR100)


def _load_cifar10(root: Path) -> ArraySplits:
    from experiments.data.readers.cifar import CIFAR10, load

    return load(root, CIFAR10)


def _load_cifar100(root: Path) -> ArraySplits:
    from experiments.data.readers.cifar import CIFAR100, load

    return load(root, CIFAR100)


def _check_tiny_imagenet(root: Path) -> None:
    from experiments.data.readers.tiny_imagenet import check

    check(root)


def _load_tiny_imagenet(root: Path) -> ArraySplits:
    from experiments.data.readers.tiny_imagenet import load

    return load(root)


def _check_imagenet(root: Path) -> None:
    from experiments.data.imagenet.files import check

    check(root)


def _load_imagenet(_root: Path) -> ArraySplits:
    raise TypeError("ImageNet does not fit in memory: open_split streams it")


def _load_digits(root: Path) -> ArraySplits:
    from experiments.data.readers.digits import load

    return load(root)


DATASETS: dict[str, DatasetInfo] = {
    "cifar10": DatasetInfo(
        name="cifar10",
        title="CIFAR-10",
        num_classes=10,
        train_size=50_000,
        test_size=10_000,
        side=32,
        crop_padding=4,
        folder="cifar-10-batches-py",
        check=_check_cifar10,
        load=_load_cifar10,
    ),
    "cifar100": DatasetInfo(
        name="cifar100",
        title="CIFAR-100",
        num_classes=100,
        train_size=50_000,
        test_size=10_000,
        side=32,
        crop_padding=4,
        folder="cifar-100-python",
        check=_check_cifar100,
        load=_load_cifar100,
    ),
    "tinyimagenet": DatasetInfo(
        name="tinyimagenet",
        title="TinyImageNet",
        num_classes=200,
        train_size=100_000,
        test_size=10_000,  # the official validation split
        side=64,
        mean=(0.4802486, 0.4480724, 0.3975465),
        std=(0.2302225, 0.2265028, 0.2261699),
        crop_padding=8,
        folder="tiny-imagenet-200",
        check=_check_tiny_imagenet,
        load=_load_tiny_imagenet,
    ),
    "imagenet": DatasetInfo(
        name="imagenet",
        title="ImageNet",
        num_classes=1000,
        train_size=1_281_167,
        test_size=50_000,  # the official validation split
        side=224,
        crop_padding=0,  # its crops are random in size too
        streaming=True,
        folder="imagenet",
        devices=8,
        check=_check_imagenet,
        load=_load_imagenet,
    ),
    "digits": DatasetInfo(
        name="digits",
        title="Digits",
        num_classes=10,
        train_size=1000,
        test_size=797,
        side=8,
        channels=1,
        mean=(0.304173,),  # of its training images
        std=(0.376435,),
        crop_padding=1,
        flip=False,  # a mirrored digit is no digit
        check=nothing_to_check,
        load=_load_digits,
    ),
}


def open_split(
    name: str,
    split: str,
    *,
    device: torch.device | str,
    root: Path | None = None,
    holdout: float = 0.0,
    workers: int | None = None,
) -> DeviceImages | StreamedImages:
    """Images and labels of one split, ready for batches on the device.

    split: "train", "test", or "held": the fraction `holdout` of the training images, always the same ones,
    which "train" then goes without. workers: processes that decode streamed images, by default one per core
    of this process; sets in memory need none, and the number never changes a result.
    """
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    if split not in ("train", "test", "held"):
        raise UserError(f"unknown split {split!r}; known: train, test, held")
    if not 0 <= holdout < 1 or (split == "held" and holdout == 0):
        raise UserError(
            f"holdout = {holdout} for the split {split!r}: a fraction below 1, above 0 for 'held'"
        )
    info, root = DATASETS[name], root or data_root()
    info.check(root)
    if info.streaming:
        from experiments.data.imagenet.stream import open_imagenet

        return open_imagenet(root, split, device=device, holdout=(holdout, HOLDOUT_SEED), workers=workers)

    from experiments.data.batches import DeviceImages, split_holdout

    arrays = info.load(root)
    if split == "test":
        images, labels = arrays.test_images, arrays.test_labels
    else:
        images, labels = arrays.train_images, arrays.train_labels
        if holdout > 0:
            kept, held = split_holdout(labels, holdout, HOLDOUT_SEED)
            chosen = held if split == "held" else kept
            images, labels = images[chosen], labels[chosen]
    augmented = split == "train"
    return DeviceImages(
        images,
        labels,
        device=device,
        mean=info.mean,
        std=info.std,
        crop_padding=info.crop_padding if augmented else 0,
        flip=info.flip and augmented,
    )
