"""Images from elsewhere, on which a good classifier is unsure: Table 3 and Figure 3 of the paper.

SVHN and Flowers102 are scored against CIFAR; photographs and printed letters, which come with scikit-learn
and matplotlib, against the 8x8 digits. Importing this is cheap: readers are imported when called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.data.ood.info import OodImages, OodSet
from experiments.data.provenance import note, of_arrays
from experiments.data.root import data_root, nothing_to_check
from experiments.errors import UserError

if TYPE_CHECKING:
    import torch

    from experiments.data.batches import DeviceImages

__all__ = ["OOD_SETS", "OodImages", "OodSet", "ood_sets_against", "open_ood"]


def _check_svhn(root: Path) -> None:
    from experiments.data.ood.svhn import check

    check(root)


def _load_svhn(root: Path) -> OodImages:
    from experiments.data.ood.svhn import load

    return load(root)


def _check_flowers(root: Path) -> None:
    from experiments.data.ood.flowers102 import check

    check(root)


def _load_flowers(root: Path) -> OodImages:
    from experiments.data.ood.flowers102 import load

    return load(root)


def _load_photos(_root: Path) -> OodImages:
    from experiments.data.ood.photos import load

    return load()


def _load_letters(_root: Path) -> OodImages:
    from experiments.data.ood.letters import load

    return load()


OOD_SETS: dict[str, OodSet] = {
    "svhn": OodSet(
        name="svhn",
        title="SVHN",
        against=("cifar10", "cifar100"),
        side=32,
        channels=3,
        mean=(0.4376821, 0.4437697, 0.47280442),  # of the paper's code; they are those of the training split
        std=(0.19803012, 0.20101562, 0.19703614),
        size=26_032,
        origin="house numbers, test split",
        check=_check_svhn,
        load=_load_svhn,
    ),
    "flowers102": OodSet(
        name="flowers102",
        title="Flowers102",
        against=("cifar10", "cifar100"),
        side=32,
        channels=3,
        # Of the paper's code, though the images' own are near (0.48, 0.39, 0.31) and (0.28, 0.22, 0.25).
        mean=(0.50390434, 0.4516826, 0.494936),
        std=(0.23261614, 0.20974728, 0.2668646),
        size=6149,
        origin="flowers, test split, reduced to 32x32",
        check=_check_flowers,
        load=_load_flowers,
    ),
    "photos": OodSet(
        name="photos",
        title="Photographs",
        against=("digits",),
        side=8,
        channels=1,
        mean=(0.455291,),
        std=(0.279693,),
        size=797,
        origin="pieces of the two photographs in scikit-learn, 8x8, grey",
        check=nothing_to_check,
        load=_load_photos,
    ),
    "letters": OodSet(
        name="letters",
        title="Letters",
        against=("digits",),
        side=8,
        channels=1,
        mean=(0.270410,),
        std=(0.333959,),
        size=768,
        origin="printed capital letters in the fonts of matplotlib, 8x8",
        check=nothing_to_check,
        load=_load_letters,
    ),
}


def ood_sets_against(dataset: str) -> tuple[OodSet, ...]:
    """The sets that a network trained on `dataset` is scored on; none for most."""
    return tuple(ood for ood in OOD_SETS.values() if dataset in ood.against)


def open_ood(
    name: str, *, device: torch.device | str, root: Path | None = None
) -> tuple[DeviceImages, str | None]:
    """The images, normalised by their own statistics, ready for batches, every label -1; and, for captions,
    what they are if not the whole set (else None).
    """
    if name not in OOD_SETS:
        raise UserError(f"unknown out-of-distribution set {name!r}; known: {', '.join(OOD_SETS)}")
    import numpy as np

    from experiments.data.batches import DeviceImages

    ood = OOD_SETS[name]
    found = ood.load(root or data_root())
    part = {"modified": found.only} if found.only else {}
    note(name, lambda: {**of_arrays(found.images), **part})
    nowhere = np.full(len(found.images), -1)
    return DeviceImages(found.images, nowhere, device=device, mean=ood.mean, std=ood.std), found.only
