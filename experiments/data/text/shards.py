"""Making the tokens of a corpus once: shards on disk, each kept as soon as it is whole, the index last."""

import hashlib
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path

from experiments.data.readers.disk import exclusive, written_whole
from experiments.data.text import bpe
from experiments.data.text.corpora import Corpus, learned_vocabulary, load_tokenizer
from experiments.data.text.encode import Encoded, encoded
from experiments.data.text.index import (
    BYTES_PER_TOKEN,
    FILE,
    Index,
    Shard,
    check_sizes,
    read_index,
    write_index,
)
from experiments.errors import RunError, UserError

SPLITS = ("train", "val")
SHARD_TOKENS = 100_000_000  # 200 MB
UNFINISHED = "unfinished.json"
REPORT_SECONDS = 10


def prepare(corpus: Corpus, root: Path, workers: int | None = None, shard_tokens: int = SHARD_TOKENS) -> Path:
    """The folder of the corpus's tokens, made first if need be, by one process of several; the rest wait.

    What a kill has left is continued: its finished shards stay. `workers` (by default one per core) do not
    change a byte; `shard_tokens`, at least so many in every shard but the last, do not change the tokens.
    """
    folder = corpus.folder(root)
    if _is_there(corpus, root):
        return folder
    corpus.check_source(root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive(folder / ".lock"):
            if not _is_there(corpus, root):
                _make(corpus, root, workers, shard_tokens)
    except OSError as error:
        place = error.filename or folder
        raise RunError(f"cannot make tokens of {corpus.name}: {place}: {error.strerror or error}") from error
    return folder


def _is_there(corpus: Corpus, root: Path) -> bool:
    index = read_index(corpus.folder(root) / FILE)
    if index is None:
        return False
    source = corpus.source(root)
    changed = _changed(index.source, source) if source else []
    if changed:
        raise UserError(
            f"the text of {corpus.name} has changed since its tokens were made ({', '.join(changed)[:200]}): "
            f"put it back, or remove {corpus.folder(root)} to make them again"
        )
    return True


def _changed(was: dict[str, str], now: dict[str, str]) -> list[str]:
    """The names of what differs. An index that only has the sizes of files is compared by these."""

    def same(name: str) -> bool:
        one, other = was.get(name), now.get(name)
        return one == other or (one is not None and other is not None and other.startswith(f"{one}, sha256 "))

    return [name for name in sorted({*was, *now}) if not same(name)]


def _make(corpus: Corpus, root: Path, workers: int | None, shard_tokens: int) -> None:
    folder = corpus.folder(root)
    print(f"making tokens of {corpus.name} in {folder}, once", file=sys.stderr, flush=True)
    index = _continued(corpus, root)
    tokenizer = load_tokenizer(corpus.tokenizer, root, folder)
    index = replace(index, vocabulary=tokenizer.vocabulary, end_of_text=tokenizer.end_of_text)
    for split in SPLITS:
        kept = index.splits.get(split, ())
        texts = corpus.documents(root, split, sum(shard.documents for shard in kept))
        chunks = _reported(encoded(texts, corpus.tokenizer, root, folder, workers), corpus.name, split)
        for chunk in chunks:
            file = folder / f"{split}-{len(kept):05d}.bin"
            kept += (_write_shard(file, chain([chunk], chunks), shard_tokens),)
            index = replace(index, splits={**index.splits, split: kept})
            write_index(folder / UNFINISHED, index)
        if not kept:
            raise UserError(f"{corpus.name} has too little text: no document is in its split {split!r}")
    _compare_counts(corpus, index)
    write_index(folder / FILE, index)
    (folder / UNFINISHED).unlink()


def unlike_published(corpus: Corpus, index: Index) -> str | None:
    """In words how the lengths of the splits differ from the published ones; None where they do not."""
    expected = {"train": corpus.train_tokens, "val": corpus.val_tokens}
    different = [
        f"{index.tokens(split):,} tokens in {split}, not {count:,}"
        for split, count in expected.items()
        if count not in (None, index.tokens(split))
    ]
    return "; ".join(different) or None


def _compare_counts(corpus: Corpus, index: Index) -> None:
    """A line on stderr if the splits are not as long as published: perhaps the same text in another order."""
    if different := unlike_published(corpus, index):
        print(
            f"{corpus.name} is not split as published: {different}. "
            "Its losses are comparable among runs here, and only nearly with published ones",
            file=sys.stderr,
            flush=True,
        )


def _continued(corpus: Corpus, root: Path) -> Index:
    """Where an interrupted preparation stopped, else a start with the tokenizer learned if it is to be."""
    folder = corpus.folder(root)
    for left in folder.glob(".*-*.*"):  # temporary files of kills; nobody else writes here now
        left.unlink()
    source = corpus.source(root)
    unfinished = folder / UNFINISHED
    try:
        index = read_index(unfinished)
        if index is not None and index.source == source:
            check_sizes(folder, index)
            return index
    except RunError as error:
        print(f"starting again: {error}", file=sys.stderr, flush=True)
    for old in [unfinished, folder / bpe.FILE, *folder.glob("*.bin")]:
        old.unlink(missing_ok=True)
    vocabulary = learned_vocabulary(corpus.tokenizer)
    if vocabulary is not None:
        learned = bpe.learn(corpus.documents(root, "train", 0), vocabulary)
        with written_whole(folder / bpe.FILE) as temporary:
            temporary.write_text(learned, encoding="utf-8")
    index = Index(
        corpus=corpus.name,
        tokenizer=corpus.tokenizer,
        vocabulary=vocabulary or 0,  # known when the tokenizer is loaded
        end_of_text=0,
        source=source,
        versions=_versions(),
    )
    write_index(unfinished, index)
    return index


def _write_shard(file: Path, chunks: Iterator[Encoded], shard_tokens: int) -> Shard:
    """Take chunks until the shard is full."""
    digest = hashlib.sha256()
    size = documents = 0
    with written_whole(file) as temporary, temporary.open("wb") as stream:
        for chunk in chunks:
            content = chunk.tokens.tobytes()
            digest.update(content)
            size += stream.write(content)
            documents += chunk.documents
            if size >= shard_tokens * BYTES_PER_TOKEN:
                break
        stream.flush()
    return Shard(
        file=file.name, tokens=size // BYTES_PER_TOKEN, documents=documents, sha256=digest.hexdigest()
    )


def _reported(chunks: Iterator[Encoded], corpus: str, split: str) -> Iterator[Encoded]:
    """The chunks, with a line on stderr every ten seconds."""
    began = reported = time.monotonic()
    tokens = 0
    for chunk in chunks:
        tokens += len(chunk.tokens)
        now = time.monotonic()
        if now - reported >= REPORT_SECONDS:
            reported = now
            rate = tokens / (now - began) / 1e6
            print(
                f"{corpus}: {split} {tokens / 1e6:,.1f}M tokens, {rate:.2f}M/s", file=sys.stderr, flush=True
            )
        yield chunk


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for library in ("datasets", "tiktoken", "tokenizers"):
        with suppress(PackageNotFoundError):
            versions[library] = version(library)
    return versions
