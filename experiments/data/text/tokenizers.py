"""Tokenizers: GPT-2's and plain bytes here, a small byte-pair encoding learned from a corpus in `bpe`."""

from __future__ import annotations

import json
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from experiments.data.provenance import check_sums
from experiments.errors import UserError

if TYPE_CHECKING:
    import tiktoken

END_OF_TEXT = "<|endoftext|>"
_OPENAI = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"
# SHA-256 of the two files of GPT-2's release
_BPE_FILES = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}


class Tokenizer(Protocol):
    """From text to numbers below `vocabulary`, and back.

    vocabulary: rows of the network's token embedding; some at the end may stand for no token.
    end_of_text: the token that follows every document; no text encodes to it.
    transformers_files: by name, what AutoTokenizer.from_pretrained needs in a folder to do the same.
    """

    name: str
    vocabulary: int
    end_of_text: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, tokens: list[int]) -> str: ...

    def transformers_files(self) -> dict[str, bytes]: ...


class Gpt2Tokenizer:
    """GPT-2's 50257 byte pairs, by tiktoken, from `gpt2_bpe` under the data root or else OpenAI's server."""

    name = "gpt2"
    vocabulary = 50304  # 50257 rounded up to a multiple of 64, as the paper has it
    end_of_text = 50256

    def __init__(self, root: Path) -> None:
        need("tiktoken", "the tokenizer gpt2")
        self.folder = root / "gpt2_bpe"
        if self._is_local:
            check_sums(
                root,
                self.folder,
                _BPE_FILES,
                f"move {self.folder} away, and both files are fetched from {_OPENAI}; bpe<tokens> is a "
                "tokenizer learned from your own text",
                algorithm="sha256",
            )
        self._encoding  # noqa: B018  what is missing is told now, not after hours

    def encode(self, text: str) -> list[int]:
        return self._encoding.encode_ordinary(text)

    def decode(self, tokens: list[int]) -> str:
        return self._encoding.decode([token for token in tokens if token < self._encoding.n_vocab])

    def transformers_files(self) -> dict[str, bytes]:
        from tiktoken.load import read_file_cached

        theirs = {"vocab.bpe": "merges.txt", "encoder.json": "vocab.json"}
        files = {theirs[name]: read_file_cached(self._place(name), _BPE_FILES[name]) for name in theirs}
        return files | {"tokenizer_config.json": _transformers_settings("GPT2Tokenizer")}

    @property
    def _is_local(self) -> bool:
        return all((self.folder / file).is_file() for file in _BPE_FILES)

    def _place(self, name: str) -> str:
        return str(self.folder / name) if self._is_local else f"{_OPENAI}/{name}"

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        import tiktoken
        from tiktoken.load import data_gym_to_mergeable_bpe_ranks
        from tiktoken_ext.openai_public import r50k_pat_str

        merges, encoder = (self._place(name) for name in _BPE_FILES)
        try:
            ranks = data_gym_to_mergeable_bpe_ranks(
                merges, encoder, _BPE_FILES["vocab.bpe"], _BPE_FILES["encoder.json"]
            )
        except (OSError, ValueError) as error:  # no network, no such disk; another file than the release's
            raise UserError(
                f"the tokenizer gpt2 needs vocab.bpe and encoder.json of GPT-2's release in {self.folder}, "
                f"or a network to fetch them from {_OPENAI}: {' '.join(str(error).split())[:200]}"
            ) from None
        special = {END_OF_TEXT: self.end_of_text}
        return tiktoken.Encoding(
            "gpt2",
            pat_str=r50k_pat_str,
            mergeable_ranks=ranks,
            special_tokens=special,
            explicit_n_vocab=50257,
        )


class ByteTokenizer:
    """The bytes of UTF-8, and one more token for the end of text; needs no library and no file."""

    name = "bytes"
    vocabulary = 320  # 257 rounded up to a multiple of 64
    end_of_text = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: list[int]) -> str:
        """The text; bytes that are no UTF-8 become the replacement character, the end of text is shown."""
        end = END_OF_TEXT.encode()
        parts = [bytes([token]) if token < 256 else end for token in tokens if token <= self.end_of_text]
        return b"".join(parts).decode(errors="replace")

    def transformers_files(self) -> dict[str, bytes]:
        need("tokenizers", "exporting the tokenizer bytes")
        import tokenizers

        model = tokenizers.models.BPE(vocab=dict(zip(_byte_characters(), range(256), strict=True)), merges=[])
        same = tokenizers.Tokenizer(model)
        same.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        same.decoder = tokenizers.decoders.ByteLevel()
        same.add_special_tokens([END_OF_TEXT])
        return fast_tokenizer_files(same.to_str())


def fast_tokenizer_files(tokenizer_json: str) -> dict[str, bytes]:
    """The files of a tokenizer that the library `tokenizers` has described as JSON."""
    settings = _transformers_settings("PreTrainedTokenizerFast")
    return {"tokenizer.json": tokenizer_json.encode(), "tokenizer_config.json": settings}


def _transformers_settings(tokenizer_class: str) -> bytes:
    tokens = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT}
    return json.dumps({"tokenizer_class": tokenizer_class, **tokens}).encode()


def _byte_characters() -> list[str]:
    """GPT-2's way to write byte b as a visible character: itself where it is one, else 256, 257, ..."""
    visible = [chr(b).isprintable() and chr(b) != " " for b in range(256)]
    return [chr(b) if visible[b] else chr(256 + b - sum(visible[:b])) for b in range(256)]


def need(library: str, purpose: str) -> None:
    """UserError unless `library` is installed."""
    if find_spec(library) is None:
        raise UserError(f"{purpose} needs the library {library}: pip install {library}")
