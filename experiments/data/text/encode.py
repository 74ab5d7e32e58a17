"""Documents to tokens, in order, by as many processes as there are cores."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np

from experiments.data.text.corpora import load_tokenizer
from experiments.data.text.tokenizers import Tokenizer
from experiments.errors import RunError

CHUNK_CHARACTERS = 1 << 20
CHUNKS_WITHOUT_PROCESSES = 64  # 10 s of work; starting processes takes about as long
CHUNKS_AHEAD = 4  # per process; all of a large corpus would not fit in memory

_tokenizer: Tokenizer | None = None  # of a worker process


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Some documents in a row, the end of text after each: uint16."""

    tokens: np.ndarray
    documents: int


def cores() -> int:
    """Of this process; a cluster may give it fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def encoded(
    texts: Iterator[str], name: str, root: Path, folder: Path, workers: int | None = None
) -> Iterator[Encoded]:
    """The documents in chunks of some 10^6 characters; the number of workers changes none."""
    tokenizer = load_tokenizer(name, root, folder)
    chunks = _chunks(texts)
    workers = workers or cores()
    first = list(islice(chunks, CHUNKS_WITHOUT_PROCESSES if workers > 1 else 0))
    chunks = chain(first, chunks)
    if len(first) < CHUNKS_WITHOUT_PROCESSES:
        return map(partial(_encode, tokenizer), chunks)
    return _in_processes(chunks, workers, (name, root, folder))


def _chunks(texts: Iterator[str]) -> Iterator[list[str]]:
    """Where a chunk ends depends on the documents in it alone, so shards may begin at any chunk."""
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _encode(tokenizer: Tokenizer, texts: list[str]) -> Encoded:
    tokens = [np.array([*tokenizer.encode(text), tokenizer.end_of_text], dtype="<u2") for text in texts]
    return Encoded(tokens=np.concatenate(tokens), documents=len(texts))


def _start_worker(name: str, root: Path, folder: Path) -> None:
    global _tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _tokenizer = load_tokenizer(name, root, folder)


def _end_with_parent() -> None:
    """A parent that is killed cannot dismiss its pool, and its processes would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _encode_in_worker(texts: list[str]) -> Encoded:
    assert _tokenizer is not None
    return _encode(_tokenizer, texts)


def _in_processes(
    chunks: Iterator[list[str]], workers: int, start: tuple[str, Path, Path]
) -> Iterator[Encoded]:
    # Not forked: the threads of PyTorch and of Arrow do not survive that.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=start
    )
    waiting: deque[Future[Encoded]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_encode_in_worker, chunk))
            if len(waiting) >= CHUNKS_AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise RunError("a process that makes tokens was killed, perhaps for want of memory") from None
    finally:
        pool.shutdown(cancel_futures=True)
