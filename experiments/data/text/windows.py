"""Random windows into the tokens of a corpus, the batches of a training; memory-mapped, never read whole."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.data.order import seed_sequence
from experiments.data.provenance import Identity, note, of_json
from experiments.data.root import data_root
from experiments.data.text.corpora import corpus, load_tokenizer
from experiments.data.text.index import FILE, Index, check_shards, read_index
from experiments.data.text.shards import SPLITS, prepare, unlike_published
from experiments.data.text.tokenizers import Tokenizer
from experiments.errors import RunError, UserError


class Tokens:
    """One split as a single row of tokens.

    count: its tokens. vocabulary: rows of the network's token embedding. fingerprint: a hash of the tokens.
    """

    def __init__(self, folder: Path, index: Index, split: str, root: Path) -> None:
        self.name, self.split, self._folder, self._root = index.corpus, split, folder, root
        self._tokenizer_name = index.tokenizer
        self.count = index.tokens(split)
        self.vocabulary = index.vocabulary
        self.fingerprint = index.fingerprint(split)
        shards = index.splits[split]
        self._shards = [np.memmap(folder / s.file, dtype="<u2", mode="r", shape=(s.tokens,)) for s in shards]
        self._begins = np.cumsum([0] + [s.tokens for s in shards])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Loaded when asked for: training needs none."""
        return load_tokenizer(self._tokenizer_name, self._root, self._folder)

    def read(self, start: int, length: int) -> np.ndarray:
        """The tokens [start, start + length), uint16, across the borders of shards."""
        if not 0 <= start <= start + length <= self.count:
            raise ValueError(f"tokens {start} to {start + length}: there are {self.count}")
        parts: list[np.ndarray] = []
        shard = int(np.searchsorted(self._begins, start, side="right")) - 1
        while length > 0:
            offset = start - int(self._begins[shard])
            part = self._shards[shard][offset : offset + length]
            parts.append(part)
            start, length, shard = start + len(part), length - len(part), shard + 1
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.uint16), *parts])

    def starts(self, seed: int, step: int, rows: int, context: int) -> np.ndarray:
        """Where the first `rows` windows of a step begin, uniform with replacement: int64 (rows,).

        The place of a row depends on (seed, step, row) alone, so neither the size of the batch nor how it is
        shared among micro-batches and processes changes what it holds.
        """
        places = self.count - context  # a window has context + 1 tokens
        if places < 1:
            raise UserError(
                f"{self.name}: {self.count} tokens in its split {self.split!r} are too few for "
                f"a context of {context}"
            )
        bits = np.random.Philox(seed_sequence(seed, step)).random_raw(rows)
        uniform = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return np.minimum((uniform * places).astype(np.int64), places - 1)  # the product may be rounded up

    def batch(
        self,
        seed: int,
        step: int,
        batch: int,
        context: int,
        *,
        first: int = 0,
        last: int | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Rows [first, last) of a step's batch of windows: int64 (rows, context + 1) on the device.

        A rank or a micro-batch takes its rows through `first` and `last`. On a GPU the copy is under way
        when this returns, ordered before whatever the current stream computes with it.
        """
        last = batch if last is None else last
        if not 0 <= first < last <= batch:
            raise ValueError(f"rows {first} to {last} are none of a batch of {batch}")
        rows = np.empty((last - first, context + 1), dtype=np.int64)
        for row, start in zip(rows, self.starts(seed, step, last, context)[first:], strict=True):
            row[:] = self.read(int(start), context + 1)
        tokens = torch.from_numpy(rows)
        device = torch.device(device)
        if device.type == "cuda":
            return tokens.pin_memory().to(device, non_blocking=True)
        return tokens.to(device)


def open_tokens(name: str, split: str, root: Path | None = None) -> Tokens:
    """The split "train" or "val" of a corpus; its tokens are made first, where they are not there yet."""
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    root = root or data_root()
    wanted = corpus(name)
    folder = prepare(wanted, root)
    index = read_index(folder / FILE)
    if index is None:
        raise RunError(f"{folder / FILE} is gone: somebody has removed it just now")
    check_shards(root, folder, index)

    def identity() -> Identity:
        different = unlike_published(wanted, index)
        return of_json(index.content, "its tokens") | ({"modified": different} if different else {})

    note(wanted.name, identity)
    return Tokens(folder, index, split, root)
