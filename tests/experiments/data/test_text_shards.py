"""Shards of tokens: the documents in order, whatever is interrupted; damage is noticed and named."""

import json
import os
import select
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.data.text import encode
from experiments.data.text.corpora import Corpus, corpus
from experiments.data.text.index import check_shards, read_index
from experiments.data.text.shards import prepare
from experiments.data.text.windows import open_tokens
from experiments.engine.spec.language import Text
from experiments.errors import RunError, UserError

STORIES = [f"Story {n}: " + "once upon a time. " * (n % 5 + 1) for n in range(300)]
NAME = "text/stories:bytes"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(encode, "CHUNK_CHARACTERS", 500)
    monkeypatch.setattr(encode, "CHUNKS_WITHOUT_PROCESSES", 2)


def write(root: Path, stories: list[str] = STORIES) -> Path:
    folder = root / "stories"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": story}) + "\n" for story in stories))
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != ".lock"}


def make(root: Path, **settings) -> Path:
    settings = {"workers": 1, "shard_tokens": 3000} | settings
    return prepare(corpus(NAME), root, **settings)


def interrupted(after: int) -> Corpus:
    """The corpus whose reading ends with an exception after so many documents of a split."""
    whole = corpus(NAME)

    def documents(root, split, skipped):
        for number, text in enumerate(whole.documents(root, split, skipped)):
            if number == after:
                raise KeyboardInterrupt
            yield text

    return replace(whole, documents=documents)


def test_shards_are_the_documents_each_with_its_end(tmp_path):
    folder = make(write(tmp_path))
    index = read_index(folder / "index.json")
    assert index is not None
    for split in ("train", "val"):
        texts = list(corpus(NAME).documents(tmp_path, split, 0))
        expected = [token for text in texts for token in [*text.encode(), 256]]
        shards = index.splits[split]
        found = np.concatenate([np.fromfile(folder / s.file, "<u2") for s in shards])
        assert found.tolist() == expected
        assert index.tokens(split) == len(expected)
        assert sum(s.documents for s in shards) == len(texts)
        assert all(s.tokens >= 3000 for s in shards[:-1])
    assert len(index.splits["train"]) > 3
    check_shards(tmp_path, folder, index)
    assert set(contents(folder)) == {"index.json"} | {s.file for v in index.splits.values() for s in v}


@pytest.mark.parametrize(("after", "workers"), [(0, 1), (60, 1), (130, 1), (150, 2)])
def test_interrupted_equals_uninterrupted(after, workers, tmp_path):
    whole = make(write(tmp_path / "whole"))
    root = write(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        prepare(interrupted(after), root, workers=workers, shard_tokens=3000)
    folder = corpus(NAME).folder(root)
    kept = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.bin")}
    assert bool(kept) == (after > 0) and not (folder / "index.json").exists()
    (folder / f".{os.getpid()}-train-00099.bin").touch()  # what SIGKILL leaves
    with pytest.raises(KeyboardInterrupt):
        prepare(interrupted(70), root, workers=1, shard_tokens=3000)
    make(root)
    assert contents(folder) == contents(whole)
    for name, when in kept.items():
        assert (folder / name).stat().st_mtime_ns == when, f"{name} was made twice"


def test_the_number_of_workers_changes_no_byte(tmp_path):
    alone = make(write(tmp_path / "alone"))
    assert contents(make(write(tmp_path / "together"), workers=2)) == contents(alone)


def test_a_learned_tokenizer_is_learned_once_and_from_the_training_split(tmp_path):
    write(tmp_path, [*STORIES, *(f"word{n} word{n * 7919 % 1000}" for n in range(300))])
    tokens = open_tokens("text/stories:bpe320", "val", tmp_path)
    folder = corpus("text/stories:bpe320").folder(tmp_path)
    from experiments.data.text import bpe

    train = corpus(NAME).documents(tmp_path, "train", 0)
    assert (folder / "tokenizer.json").read_text() == bpe.learn(train, 320)
    texts = list(corpus(NAME).documents(tmp_path, "val", 0))
    assert tokens.tokenizer.decode(tokens.read(0, tokens.count).tolist()) == "".join(
        t + "<|endoftext|>" for t in texts
    )
    assert tokens.vocabulary == 320


def test_damage_is_named(tmp_path):
    folder = make(write(tmp_path))
    shard = folder / "train-00001.bin"
    good = shard.read_bytes()
    shard.write_bytes(good[:-2])
    with pytest.raises(RunError, match=rf"shard {shard} has {len(good) - 2} bytes, not {len(good)}"):
        open_tokens(NAME, "train", tmp_path)
    shard.write_bytes(good[:-2] + b"\x01\x00")
    for split in ("train", "val"):
        with pytest.raises(RunError, match=rf"shard {shard} has sha256 "):
            open_tokens(NAME, split, tmp_path)
    with pytest.raises(UserError, match=rf"shard {shard} has sha256 "):
        corpus(NAME).check(tmp_path)  # before anything starts
    assert Text(corpus(NAME)).where(tmp_path).startswith(f"UNUSABLE: shard {shard}")
    shard.write_bytes(good)
    open_tokens(NAME, "train", tmp_path)
    assert Text(corpus(NAME)).where(tmp_path) == f"tokens found in {folder}"
    shard.unlink()
    with pytest.raises(RunError, match=rf"shard {shard}: No such file"):
        open_tokens(NAME, "val", tmp_path)
    whole = json.loads((folder / "index.json").read_text())
    for damaged in (
        "[" * 200_000,
        "[]",
        json.dumps({**whole, "vocabulary": "257"}),
        json.dumps({**whole, "splits": {"train": [{**whole["splits"]["train"][0], "tokens": -4}]}}),
        json.dumps({**whole, "splits": {"train": [{**whole["splits"]["train"][0], "file": "../x"}]}}),
        json.dumps({**whole, "splits": None}),
    ):
        (folder / "index.json").write_text(damaged)
        with pytest.raises(RunError, match=r"index.json is damaged .* remove") as caught:
            open_tokens(NAME, "train", tmp_path)
        assert "\n" not in str(caught.value)
    (folder / "index.json").write_text("{")
    with pytest.raises(RunError, match=r"index.json is damaged .* remove"):
        open_tokens(NAME, "val", tmp_path)


def test_a_shard_that_a_crash_has_cut_is_made_again(tmp_path):
    whole = make(write(tmp_path / "whole"))
    root = write(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        prepare(interrupted(100), root, workers=1, shard_tokens=3000)
    folder = corpus(NAME).folder(root)
    (folder / "train-00000.bin").write_bytes(b"\x01")
    assert contents(make(root)) == contents(whole) and folder == corpus(NAME).folder(root)


def test_text_that_has_changed_is_told_and_may_go(tmp_path):
    folder = make(write(tmp_path))
    write(tmp_path, STORIES + ["one more"])
    with pytest.raises(UserError, match=rf"has changed .*\(a.jsonl\): put it back, or remove {folder}"):
        open_tokens(NAME, "train", tmp_path)
    (tmp_path / "stories" / "a.jsonl").unlink()
    (tmp_path / "stories").rmdir()
    assert open_tokens(NAME, "train", tmp_path).count > 0
    corpus(NAME).check(tmp_path)


def test_text_of_the_same_size_is_other_text(tmp_path):
    folder = make(write(tmp_path))
    write(tmp_path, [story.replace("Story", "story") for story in STORIES])
    with pytest.raises(UserError, match=r"has changed .*\(a.jsonl\): put it back"):
        open_tokens(NAME, "train", tmp_path)

    index = json.loads((folder / "index.json").read_text())  # as it was when it had sizes only
    index["source"] = {name: what.partition(",")[0] for name, what in index["source"].items()}
    (folder / "index.json").write_text(json.dumps(index))
    open_tokens(NAME, "train", tmp_path)
    write(tmp_path, STORIES + ["one more"])
    with pytest.raises(UserError, match=r"has changed .*\(a.jsonl\)"):
        open_tokens(NAME, "train", tmp_path)


def test_text_that_changes_between_attempts_starts_anew(tmp_path):
    root = write(tmp_path / "cut", STORIES + ["one more"])
    with pytest.raises(KeyboardInterrupt):
        prepare(interrupted(100), root, workers=1, shard_tokens=3000)
    assert contents(make(write(root))) == contents(make(write(tmp_path / "whole")))


def test_two_preparations_at_once_make_it_once(tmp_path, capfd):
    write(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: make(tmp_path), range(4)))
    assert len(set(folders)) == 1
    assert capfd.readouterr().err.count("making tokens of text/stories:bytes") == 1
    open_tokens(NAME, "train", tmp_path)


POOL = """
import os, pathlib, signal, sys
from experiments.data.text import encode
if __name__ == "__main__":
    encode.CHUNK_CHARACTERS = 1
    root = pathlib.Path(sys.argv[1])
    chunks = encode.encoded((str(n) for n in range(10**9)), "bytes", root, root, workers=2)
    next(chunks)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_of_a_pool_end_with_the_one_that_started_them(tmp_path):
    """All of them have an end of this pipe."""
    (tmp_path / "pool.py").write_text(POOL)
    mine, theirs = os.pipe()
    os.set_inheritable(theirs, True)
    environment = {**os.environ, "PYTHONPATH": str(Path(encode.__file__).parents[3])}
    killed = subprocess.run(
        [sys.executable, tmp_path / "pool.py", tmp_path],
        env=environment,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    assert killed.returncode == -signal.SIGKILL
    ended, _, _ = select.select([mine], [], [], 30)
    assert ended and os.read(mine, 1) == b""
    os.close(mine)


@pytest.mark.parametrize("known", [True, False])
def test_other_counts_than_the_published_ones_are_told(known, tmp_path, capfd):
    tokens = open_tokens(NAME, "train", write(tmp_path / "one"))
    train = tokens.count if known else 9_035_582_198
    published = replace(corpus(NAME), train_tokens=train)
    capfd.readouterr()
    prepare(published, write(tmp_path / "two"), workers=1)
    lines = [line for line in capfd.readouterr().err.splitlines() if "as published" in line]
    if known:
        assert not lines
    else:
        (line,) = lines
        assert f"{tokens.count:,} tokens in train, not 9,035,582,198" in line and "val" not in line


def test_too_little_text_for_two_splits_is_told(tmp_path):
    write(tmp_path, STORIES[:1])
    with pytest.raises(UserError, match="too little text: no document is in its split"):
        make(tmp_path)


def test_a_root_that_cannot_be_written_is_told(tmp_path):
    write(tmp_path)
    (tmp_path / "tokens").touch()  # a file where the folder should be
    with pytest.raises(RunError, match=r"cannot make tokens of text/stories:bytes: .*tokens"):
        make(tmp_path)
