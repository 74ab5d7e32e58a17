"""Windows into tokens: a function of seed, step and row; every place equally likely; shards do not show."""

import json

import numpy as np
import pytest
import torch

from experiments.data.text import encode
from experiments.data.text.corpora import corpus
from experiments.data.text.index import read_index
from experiments.data.text.shards import prepare
from experiments.data.text.windows import Tokens, open_tokens
from experiments.errors import UserError

NAME = "text/stories:bytes"


@pytest.fixture
def tokens(tmp_path, monkeypatch) -> Tokens:
    monkeypatch.setattr(encode, "CHUNK_CHARACTERS", 100)
    (tmp_path / "stories").mkdir()
    stories = [f"Story {n}: " + "abcdefghij"[n % 7 :] for n in range(200)]
    (tmp_path / "stories" / "a.jsonl").write_text("".join(json.dumps({"text": s}) + "\n" for s in stories))
    prepare(corpus(NAME), tmp_path, workers=1, shard_tokens=150)
    return open_tokens(NAME, "train", tmp_path)


def whole(tokens: Tokens) -> np.ndarray:
    return np.concatenate([np.asarray(shard) for shard in tokens._shards])


def test_reading_does_not_notice_shards(tokens):
    text = whole(tokens)
    assert len(tokens._shards) > 10 and len(text) == tokens.count
    generator = np.random.default_rng(0)
    for _ in range(300):
        start, end = sorted(generator.integers(0, tokens.count + 1, 2))
        assert np.array_equal(tokens.read(int(start), int(end - start)), text[start:end])
    with pytest.raises(ValueError, match=f"there are {tokens.count}"):
        tokens.read(tokens.count - 3, 4)


def test_rows_are_windows_of_the_text(tokens):
    batch = tokens.batch(0, 5, 16, 400)  # longer than two shards
    starts = tokens.starts(0, 5, 16, 400)
    assert batch.shape == (16, 401) and batch.dtype == torch.int64
    for row, start in zip(batch.numpy(), starts, strict=True):
        assert np.array_equal(row, whole(tokens)[start : start + 401])


def test_rows_do_not_depend_on_how_a_batch_is_shared(tokens):
    batch = tokens.batch(3, 7, 24, 20)
    for shares in (2, 3, 8):
        size = 24 // shares
        parts = [tokens.batch(3, 7, 24, 20, first=i * size, last=(i + 1) * size) for i in range(shares)]
        assert torch.equal(torch.cat(parts), batch)
    assert torch.equal(tokens.batch(3, 7, 48, 20)[:24], batch)
    with pytest.raises(ValueError, match="rows 4 to 25 are none of a batch of 24"):
        tokens.batch(3, 7, 24, 20, first=4, last=25)


def test_seeds_and_steps_share_nothing(tokens):
    batches = [tokens.starts(seed, step, 50, 20).tolist() for seed in range(5) for step in range(5)]
    assert len({tuple(starts) for starts in batches}) == 25
    assert torch.equal(tokens.batch(1, 2, 8, 20), tokens.batch(1, 2, 8, 20))


def test_every_place_is_equally_likely(tokens):
    context = tokens.count - 20  # 20 places
    places = np.concatenate([tokens.starts(0, step, 500, context) for step in range(40)])
    counts = np.bincount(places, minlength=20)
    assert len(counts) == 20
    chi_squared = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_squared < 43.8  # exceeded once in a thousand, with 19 degrees of freedom


def test_the_largest_context_has_one_place(tokens):
    assert tokens.batch(0, 0, 2, tokens.count - 1).numpy().tolist() == [whole(tokens).tolist()] * 2
    with pytest.raises(UserError, match=f"{tokens.count} tokens in its split 'train' are too few"):
        tokens.batch(0, 0, 2, tokens.count)


def test_what_a_split_knows_of_itself(tokens, tmp_path):
    held = open_tokens(NAME, "val", tmp_path)
    assert tokens.vocabulary == held.vocabulary == 320
    assert tokens.tokenizer.name == "bytes"
    assert tokens.fingerprint != held.fingerprint
    assert tokens.fingerprint == open_tokens(NAME, "train", tmp_path).fingerprint
    index = read_index(corpus(NAME).folder(tmp_path) / "index.json")
    assert index is not None
    assert tokens.count + held.count == index.tokens("train") + index.tokens("val")
    with pytest.raises(UserError, match="unknown split 'test'; known: train, val"):
        open_tokens(NAME, "test", tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_batch_arrives_on_the_gpu(tokens):
    assert torch.equal(tokens.batch(0, 1, 64, 50, device="cuda").cpu(), tokens.batch(0, 1, 64, 50))
