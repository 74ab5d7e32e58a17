"""Corpora: their names, the user's folders in three formats, and splits that depend on the text alone."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.data.text import sources
from experiments.data.text.corpora import CORPORA, corpus
from experiments.errors import RunError, UserError

STORIES = [f"Story {n}: " + "once upon a time. " * (n % 5 + 1) for n in range(400)]


def write_jsonl(folder: Path, texts: list[str], name: str = "a.jsonl") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps({"text": text, "id": 3}) + "\n" for text in texts))


def parquet_of(texts: list, kind: str = "string") -> bytes:
    """A file with a column "text"; bytes are put there as they are, also into a column of strings."""
    import pyarrow
    from pyarrow import parquet

    if isinstance(texts[0], int):
        column = pyarrow.array(texts)
    else:
        raw = [text.encode() if isinstance(text, str) else text for text in texts]
        column = pyarrow.array(raw, pyarrow.binary())
        if kind == "string":
            column = pyarrow.StringArray.from_buffers(len(column), *column.buffers()[1:], column.buffers()[0])
    file = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": column}), file)
    return file.getvalue()


def documents(name: str, root: Path, split: str, skipped: int = 0) -> list[str]:
    return list(corpus(name).documents(root, split, skipped))


def test_names():
    assert corpus("openwebtext") is CORPORA["openwebtext"]
    assert corpus("openwebtext").train_tokens == 9035582198
    other = corpus("openwebtext:bytes")
    assert (other.name, other.tokenizer, other.train_tokens) == ("openwebtext:bytes", "bytes", None)
    mine = corpus("text/my/books:bpe2048")
    assert (mine.title, mine.tokenizer) == ("my/books", "bpe2048")
    assert mine.folder(Path("/root")) == Path("/root/tokens/text-my-books-bpe2048")
    assert corpus("text/books:gpt2").folder(Path()) == corpus("text/books").folder(Path())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("openwebtexts", "unknown corpus 'openwebtexts'; known: openwebtext, python-docs, text/"),
        ("text/../secrets", "unknown corpus 'text/../secrets'"),
        ("text/", "unknown corpus 'text/'"),
        ("text/a:llama", "unknown tokenizer 'llama'; known: gpt2, bytes"),
        ("text/a:", "unknown tokenizer ''"),
        ("text/a:bpe100", "tokenizer bpe100: from 258 to 65536"),
        ("python-docs:bpe65537", "from 258 to 65536"),
    ],
)
def test_a_wrong_name_is_told(name, told):
    with pytest.raises(UserError, match=told):
        corpus(name)


def test_text_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match=f"no folder of text {tmp_path}/text/books, nor {tmp_path}/books"):
        corpus("text/books").check(tmp_path)
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "notes.pdf").touch()
    with pytest.raises(UserError, match=r"books has no file that ends with .txt, .jsonl, .parquet"):
        corpus("text/books").check(tmp_path)
    write_jsonl(tmp_path / "text" / "books", STORIES)
    corpus("text/books").check(tmp_path)
    corpus("python-docs").check(tmp_path)


def test_every_format_gives_its_documents_in_order_of_path(tmp_path):
    import pyarrow
    from pyarrow import parquet

    folder = tmp_path / "mixed"
    write_jsonl(folder / "b", STORIES[:100])
    parquet.write_table(pyarrow.table({"text": STORIES[100:200], "n": range(100)}), folder / "a.parquet")
    for number, story in enumerate(STORIES[200:300]):
        (folder / f"c{number:03d}.txt").write_text(story)
    (folder / ".hidden.txt").write_text("hidden")
    (folder / "empty.txt").write_text(" \n")
    found = {split: documents("text/mixed", tmp_path, split) for split in ("train", "val")}
    expected = STORIES[100:200] + STORIES[:100] + STORIES[200:300]  # a, b/, c
    assert found["train"] == [story for story in expected if story not in found["val"]]
    assert sorted(found["train"] + found["val"]) == sorted(expected)
    assert documents("text/mixed", tmp_path, "train", 7) == found["train"][7:]


def test_split_depends_on_the_document_alone(tmp_path):
    write_jsonl(tmp_path / "one", STORIES)
    write_jsonl(tmp_path / "two", STORIES[::-1] + ["another one"] * 9)
    held = documents("text/one", tmp_path, "val")
    assert 5 <= len(held) <= 40  # 20 expected of 400; 4.4 is the standard deviation
    assert set(held) <= set(documents("text/two", tmp_path, "val"))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b"caf\xe9", r"a.txt, line 1: byte 0xe9 is not UTF-8"),
        ("a.txt", b"one\ntwo\n\ncaf\xe9\n", r"a.txt, line 4: byte 0xe9 is not UTF-8"),
        ("a.txt", "text".encode("utf-16"), r"a.txt, line 1: byte 0xff is not UTF-8"),
        ("a.jsonl", b'{"text": "good"}\n{"text": "caf\xe9"}\n', r"a.jsonl, line 2: byte 0xe9 is not UTF-8"),
        ("a.parquet", parquet_of([b"good", None, b"caf\xe9"]), r"a.parquet, row 3: byte 0xe9 is not UTF-8"),
        ("a.parquet", parquet_of([1, 2]), 'a.parquet is no parquet file with a column "text" of text'),
        (
            "a.jsonl",
            b'{"text": "good"}\n\n{"txt": "bad"}\n',
            r'a.jsonl, line 3: not an object with a field "text"',
        ),
        ("a.jsonl", b'{"text": "cut of', "a.jsonl, line 1: "),
        ("a.parquet", b"PAR1", "a.parquet is no parquet file"),
    ],
)
def test_a_broken_file_is_named(name, content, told, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / name).write_bytes(content)
    with pytest.raises(UserError, match=told) as caught:
        documents("text/bad", tmp_path, "train")
    assert "\n" not in str(caught.value)


WORDS = "caf\u00e9 \u4e2d\u6587 \U0001f600 \u2028 and more"


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "marked"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
def test_one_text_is_the_same_in_every_format(mark, end, tmp_path):
    """Windows writes byte-order marks and line ends of its own; neither is a part of the text."""
    texts = [f"{mark}{WORDS}", f"{mark}{WORDS} 2"]
    raw = [text.encode() for text in texts]
    lines = f'{{"text": "{WORDS}"}}{end}{{"text": "{mark}{WORDS} 2"}}{end}'
    folders = {
        "txt": {"1.txt": raw[0], "2.txt": raw[1]},
        "jsonl": {"a.jsonl": f"{mark}{lines}".encode()},
        "parquet": {"a.parquet": parquet_of(texts)},
        "bytes": {"a.parquet": parquet_of(raw, "binary")},
    }
    for name, files in folders.items():
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_bytes(content)
        found = documents(f"text/{name}", tmp_path, "train") + documents(f"text/{name}", tmp_path, "val")
        assert sorted(found) == [WORDS, f"{WORDS} 2"], name
    (tmp_path / "txt" / "2.txt").write_bytes(f"{mark}one{end}two{end}".encode())
    assert "one\ntwo\n" in documents("text/txt", tmp_path, "train") + documents("text/txt", tmp_path, "val")


def test_halves_of_characters_in_json_become_question_marks(tmp_path):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "a.jsonl").write_text('{"text": "odd \\ud800!"}\n')
    assert documents("text/odd", tmp_path, "train") + documents("text/odd", tmp_path, "val") == ["odd ?!"]


@given(st.lists(st.sampled_from(["word", "\n", "\n\n", " \n \n", "\t", "x" * 5000, "y" * 9000]), max_size=30))
def test_pieces_joined_are_the_text(parts):
    text = "".join(parts)
    cut = list(sources.pieces(text))
    assert "".join(cut) == text
    assert all(len(piece) >= sources.PIECE_CHARACTERS for piece in cut[:-1])
    assert all(piece.rstrip(" \t").endswith("\n") for piece in cut[:-1])


def test_pythons_documentation_is_real_text_of_two_megabytes(tmp_path):
    texts = {split: documents("python-docs", tmp_path, split) for split in ("train", "val")}
    assert texts == {split: documents("python-docs", tmp_path, split) for split in texts}
    size = {split: sum(map(len, of_split)) for split, of_split in texts.items()}
    assert 1.9e6 < sum(size.values()) <= 2e6  # the bound, but for one last piece
    assert 0.02 < size["val"] / sum(size.values()) < 0.09
    together = "".join(texts["train"] + texts["val"])
    assert "def " in together and 'The "for" statement' in together


def test_openwebtext_is_split_as_in_nanogpts_preparation(tmp_path, monkeypatch):
    import datasets

    whole = datasets.Dataset.from_dict({"text": [f"page {n}" for n in range(4000)]})

    def load_dataset(name, *, split, cache_dir):
        assert (name, split, cache_dir) == ("Skylion007/openwebtext", "train", str(tmp_path / "openwebtext"))
        return whole

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    halves = whole.train_test_split(test_size=0.0005, seed=2357, shuffle=True)
    assert documents("openwebtext", tmp_path, "val") == list(halves["test"]["text"])
    train = documents("openwebtext", tmp_path, "train")
    assert train == list(halves["train"]["text"]) and len(train) == 3998
    assert documents("openwebtext", tmp_path, "train", 1500) == train[1500:]


def test_openwebtext_without_a_network_is_one_line(tmp_path):
    with pytest.raises(
        RunError, match=r"OpenWebText .* is not in .*openwebtext and cannot be fetched"
    ) as caught:
        documents("openwebtext", tmp_path, "train")
    assert "\n" not in str(caught.value)


def failures() -> dict[str, Exception]:
    """As `datasets` 5.2 raises them."""
    from datasets.exceptions import DatasetGenerationError

    full = DatasetGenerationError("An error occurred while generating the dataset")
    full.__cause__ = OSError(28, "No space left on device")
    return {
        "No space left on device": full,
        "Dataset scripts are no longer supported": RuntimeError(
            "Dataset scripts are no longer supported, but found openwebtext.py"
        ),
    }


@pytest.mark.parametrize("told", failures())
def test_openwebtext_that_cannot_be_had_is_one_line(told, tmp_path, monkeypatch):
    import datasets

    def load_dataset(*_, **__):
        raise failures()[told]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(RunError, match=f"OpenWebText .* cannot be fetched: .*{told}") as caught:
        documents("openwebtext", tmp_path, "train")
    assert "\n" not in str(caught.value)


def test_registry_is_cheap_to_import():
    heavy = ("torch", "numpy", "datasets", "tiktoken", "tokenizers", "pyarrow")
    check = "import sys, experiments.data.text.corpora as c; c.corpus('text/a'); "
    check += f"sys.exit(any(module in sys.modules for module in {heavy}))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
