"""ImageNet streamed from JPEG files: worker processes decode and crop to bytes, the device does the rest."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from experiments.data import DATASETS
from experiments.data.batches import Batch
from experiments.data.holdout import split_holdout
from experiments.data.imagenet.files import ImageListing, list_images
from experiments.data.imagenet.jpeg import central_box, decode_box, random_box
from experiments.data.imagenet.transfer import Pieces, on_device
from experiments.data.order import (
    epoch_generator,
    epoch_order,
    seed_sequence,
    share_of_batch,
    steps_per_epoch,
)
from experiments.data.pixels import Normaliser, mirror
from experiments.data.provenance import Identity, modification, note
from experiments.errors import RunError, UserError

PIECE = 32  # images decoded in one go by one worker: 4.6 MiB of shared memory, however large the batch
PIECES_AHEAD = 4  # per worker


class Request(NamedTuple):
    """Images to decode together; augmented by draws from (seed, epoch, index), or not."""

    indices: np.ndarray
    seed_and_epoch: tuple[int, int] | None


class _Plan:
    """The requests of the epoch that runs; the loader, and so its workers, outlive it."""

    requests: Iterable[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)


class Decoder(Dataset[object]):
    """Runs in the workers: a request to bytes (B, S, S, 3), mirror mask (B,) and labels (B,)."""

    def __init__(self, listing: ImageListing, side: int) -> None:
        self.listing, self.side = listing, side

    def __getitem__(self, request: Request) -> tuple[Tensor, Tensor, Tensor] | RunError:
        pixels = np.empty((len(request.indices), self.side, self.side, 3), dtype=np.uint8)
        mask = np.zeros(len(request.indices), dtype=np.uint8)
        for place, index in enumerate(request.indices):
            choose_box = central_box
            if request.seed_and_epoch is not None:
                rng = np.random.Generator(np.random.PCG64(seed_sequence(*request.seed_and_epoch, int(index))))
                mask[place] = 255 if rng.random() < 0.5 else 0
                choose_box = partial(random_box, rng=rng)
            try:
                file = self.listing.folder / os.fsdecode(bytes(self.listing.names[index]))
                pixels[place] = decode_box(file, self.side, choose_box)
            except RunError as error:
                return error  # raised here, the loader would wrap it in a worker's traceback
        labels = torch.from_numpy(self.listing.labels[request.indices])
        return torch.from_numpy(pixels), torch.from_numpy(mask), labels


class StreamedImages:
    """Files of one split as batches, with the surface of `DeviceImages`. One iteration at a time."""

    def __init__(
        self,
        listing: ImageListing,
        *,
        device: torch.device | str,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        side: int,
        augment: bool,
        workers: int,
    ) -> None:
        """augment: random resized crops and flips in epochs; workers: decoding processes (0: in this one)."""
        self.device = torch.device(device)
        self.listing, self.augment = listing, augment
        self._normalise = Normaliser(mean, std, side, side, self.device)
        self._plan = _Plan()
        self._loader = DataLoader(
            Decoder(listing, side),
            batch_size=None,  # a request is a batch already
            sampler=self._plan,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=PIECES_AHEAD if workers > 0 else None,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # the loader draws a seed it has no use for: not from the global one
        )

    def __len__(self) -> int:
        return len(self.listing.names)

    def steps(self, batch_size: int) -> int:
        """Batches in an epoch; a last, smaller one is dropped."""
        return steps_per_epoch(len(self), batch_size)

    def epoch(
        self, seed: int, epoch: int, batch_size: int, *, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Shuffled batches `start`, `start` + 1, ... of one epoch; of each, the equal share of `rank`.

        The order is a function of (seed, epoch), crop and flip of an image of (seed, epoch, index).
        """
        share = share_of_batch(batch_size, rank, world)
        order = epoch_order(len(self), epoch_generator(seed, epoch)).numpy()
        starts = (step * batch_size for step in range(start, self.steps(batch_size)))
        batches = (order[first + share.start : first + share.stop] for first in starts)
        return self._stream(batches, (seed, epoch) if self.augment else None)

    def batches(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """The centre of every image, in order; of each batch the share of `rank`; the last may be smaller."""
        share = share_of_batch(batch_size, rank, world)
        everything = np.arange(len(self))
        firsts = range(0, len(self), batch_size)
        batches = (everything[first : first + batch_size][share] for first in firsts)
        return self._stream((batch for batch in batches if len(batch)), None)

    def _stream(
        self, batches: Iterable[np.ndarray], seed_and_epoch: tuple[int, int] | None
    ) -> Iterator[Batch]:
        for pixels, mask, labels in on_device(self._decoded(batches, seed_and_epoch), self.device):
            if seed_and_epoch is not None:
                pixels = mirror(pixels, mask)
            yield self._normalise(pixels), labels

    def _decoded(
        self, batches: Iterable[np.ndarray], seed_and_epoch: tuple[int, int] | None
    ) -> Iterator[Pieces]:
        """The pieces of each batch, as the workers deliver them, in order."""
        counts: list[int] = []  # pieces in each batch that has been asked for; the loader asks ahead

        def requests() -> Iterator[Request]:
            for batch in batches:
                starts = range(0, len(batch), PIECE)
                counts.append(len(starts))
                yield from (Request(batch[k : k + PIECE], seed_and_epoch) for k in starts)

        mine = requests()
        self._plan.requests = mine
        delivered = iter(self._loader)
        while True:
            if self._plan.requests is not mine:  # both would be served by the same workers
                raise RuntimeError("another iteration over the same streamed images has begun")
            first = next(delivered, None)
            if first is None:
                return
            pieces = [first, *islice(delivered, counts.pop(0) - 1)]
            for piece in pieces:
                if isinstance(piece, RunError):
                    raise piece
            yield pieces


def open_imagenet(
    root: Path, split: str, *, device: torch.device | str, holdout: tuple[float, int], workers: int | None
) -> StreamedImages:
    """ "train", "held" or "test" (the official validation split); holdout is (fraction, seed)."""
    info = DATASETS["imagenet"]
    folder, size = ("val", info.test_size) if split == "test" else ("train", info.train_size)
    listing = list_images(root / "imagenet" / folder)
    if len(listing.names) != size:
        raise UserError(f"{listing.folder} holds {len(listing.names)} images, not {size}: complete it")
    note(f"imagenet/{folder}", lambda: _identity(root / "imagenet", listing.digest))
    if split != "test":
        kept, held = split_holdout(listing.labels, *holdout)
        chosen = held if split == "held" else kept
        listing = replace(listing, names=listing.names[chosen], labels=listing.labels[chosen])
    return StreamedImages(
        listing,
        device=device,
        mean=info.mean,
        std=info.std,
        side=info.side,
        augment=split == "train",
        workers=_cores() if workers is None else workers,
    )


def _identity(folder: Path, digest: str) -> Identity:
    modified = modification(folder)
    found = {"digest": f"sha256:{digest}", "of": "names and sizes of its files, whose content was not read"}
    return found if modified is None else {**found, "modified": modified}


def _cores() -> int:
    """Cores for each process of the machine: SLURM gives every process its own, torchrun lets them share."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
