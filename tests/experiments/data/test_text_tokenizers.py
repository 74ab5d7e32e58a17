"""Tokenizers: text comes back, no text spells the end of text, transformers reads the same tokens."""

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.data.text import bpe
from experiments.data.text.corpora import load_tokenizer
from experiments.data.text.tokenizers import END_OF_TEXT, ByteTokenizer, Gpt2Tokenizer
from experiments.errors import RunError, UserError

STORY = (
    "The naïve café sold 1000 croissants; it's 5 o'clock.\n\n  Then: nothing — \U0001f600\t"
    + END_OF_TEXT
    + "?"
)
# Published with GPT-2's release: its tests encode "Hello world" so.
HELLO_WORLD = [15496, 995]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned")
    words = [f"{a}{b}ing the {c} of {b}{a}\n" for a in "abcdef" for b in "ouie" for c in ("law", "land")]
    (folder / bpe.FILE).write_text(bpe.learn(iter(words), 320))
    return load_tokenizer("bpe320", folder, folder)


@pytest.fixture(params=["gpt2", "bytes", "learned"])
def tokenizer(request):
    if request.param == "gpt2":
        return Gpt2Tokenizer(
            request.getfixturevalue("data_root")("gpt2_bpe/vocab.bpe", "gpt2_bpe/encoder.json")
        )
    return ByteTokenizer() if request.param == "bytes" else request.getfixturevalue("learned")


def test_text_comes_back(tokenizer):
    tokens = tokenizer.encode(STORY)
    assert tokenizer.decode(tokens) == STORY
    assert tokenizer.end_of_text not in tokens and max(tokens) < tokenizer.vocabulary
    assert tokenizer.decode([*tokens, tokenizer.end_of_text]) == STORY + END_OF_TEXT
    assert tokenizer.vocabulary % 64 == 0


def test_transformers_makes_the_same_tokens(tokenizer, tmp_path):
    from experiments.torchvision_guard import import_torchvision

    import_torchvision()  # transformers imports it
    transformers = pytest.importorskip("transformers")
    for name, content in tokenizer.transformers_files().items():
        (tmp_path / name).write_bytes(content)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = STORY.replace(END_OF_TEXT, "")
    assert theirs(text)["input_ids"] == tokenizer.encode(text)
    assert theirs.eos_token_id == tokenizer.end_of_text
    assert theirs.decode(tokenizer.encode(text), clean_up_tokenization_spaces=False) == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_bytes(text):
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_any_token_can_be_read(tokenizer):
    """A sample from a network may hold half a character, or one of the tokens that stand for nothing."""
    assert isinstance(tokenizer.decode(list(range(tokenizer.vocabulary))), str)


def test_learning_is_a_function_of_the_text(learned):
    words = ["low lower lowest newest widest " * 3, "ab ba ab ba abab"] * 4
    assert bpe.learn(iter(words), 272) == bpe.learn(iter(words), 272)
    assert (learned.vocabulary, learned.end_of_text, learned.name) == (320, 319, "bpe320")
    assert len(learned.encode("bouing the land of")) < 12  # it has learned these words


def test_too_little_text_to_learn_from_is_told():
    with pytest.raises(RunError, match=r"gives only 2.. tokens, not 1024"):
        bpe.learn(iter(["some words"]), 1024)


def test_gpt2_is_the_released_one(data_root):
    tokenizer = Gpt2Tokenizer(data_root("gpt2_bpe/vocab.bpe", "gpt2_bpe/encoder.json"))
    assert tokenizer.encode("Hello world") == HELLO_WORLD
    assert tokenizer.decode([50256]) == END_OF_TEXT


def test_gpt2_without_its_files_says_what_is_missing(tmp_path, monkeypatch):
    import tiktoken.load

    def no_network(_path: str) -> bytes:
        raise ConnectionError("no route to host")

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tiktoken.load, "read_file", no_network)
    with pytest.raises(UserError) as caught:
        Gpt2Tokenizer(tmp_path)
    told = str(caught.value)
    for part in ("vocab.bpe and encoder.json", str(tmp_path / "gpt2_bpe"), "https://", "no route to host"):
        assert part in told
    assert "\n" not in told


def test_another_vocabulary_is_refused(data_root, tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    shutil.copytree(data_root("gpt2_bpe/vocab.bpe") / "gpt2_bpe", tmp_path / "gpt2_bpe")
    altered = tmp_path / "gpt2_bpe" / "vocab.bpe"
    altered.chmod(0o644)
    altered.write_bytes(altered.read_bytes() + b"x y\n")
    with pytest.raises(UserError, match=r"gpt2_bpe/vocab\.bpe has sha256 \w{64}, not 1ce1664773c5\w+ as"):
        Gpt2Tokenizer(tmp_path)
