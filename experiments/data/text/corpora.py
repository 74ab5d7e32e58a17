"""The corpora by name: which text, by which tokenizer, and where its tokens are kept. Importing is cheap."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.data.checksums import checksums
from experiments.data.root import nothing_to_check
from experiments.data.text import sources
from experiments.errors import RunError, UserError

if TYPE_CHECKING:
    from experiments.data.text.tokenizers import Tokenizer

LARGEST_VOCABULARY = 2**16  # tokens are kept in two bytes each


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Text that becomes tokens once.

    name: the corpus, followed by ":" and a tokenizer where that is not the usual one.
    tokenizer: "gpt2", "bytes", or "bpe<N>", N byte pairs learned from the training split.
    edition: of a text that is not everywhere the same; it keeps tokens of different editions apart.
    documents: (data root, split, documents to skip) -> the texts of "train" or "val".
    validation: how the validation split is chosen.
    source: takes the data root; what the tokens are made from, to notice when it has changed. Empty if the
        text is not there (any more).
    check_source: takes the data root; UserError if the user has to bring the text and it is not there.
    train_tokens, val_tokens: where published; what is made is compared with them.
    """

    name: str
    title: str
    tokenizer: str
    edition: str = ""
    documents: sources.Documents
    validation: str = f"{sources.VALIDATION_SHARE:.0%} of the documents, by a hash of their text"
    source: Callable[[Path], dict[str, str]]
    check_source: Callable[[Path], None]
    train_tokens: int | None = None
    val_tokens: int | None = None

    def folder(self, root: Path) -> Path:
        """Where its shards of tokens are."""
        base = self.name.partition(":")[0].replace("/", "-")
        return root / "tokens" / "-".join(filter(None, (base, self.edition, self.tokenizer)))

    def check(self, root: Path) -> None:
        """UserError if the tokens are damaged, or if neither they nor the text that the user has to bring are
        there.
        """
        from experiments.data.text.index import FILE, check_shards, read_index

        folder = self.folder(root)
        try:
            index = read_index(folder / FILE)
            if index is not None:
                check_shards(root, folder, index)
        except RunError as error:
            raise UserError(str(error)) from None
        if index is None:
            self.check_source(root)


def _openwebtext_source(_root: Path) -> dict[str, str]:
    return {"dataset": sources.OPENWEBTEXT, "split": "test_size=0.0005, seed=2357"}


def _python_source(_root: Path) -> dict[str, str]:
    return {"python": platform.python_version()}


def _folder_source(folder: str, root: Path) -> dict[str, str]:
    try:
        files = sources.text_files(root, folder)
    except UserError:  # the text may go when its tokens are there
        return {}
    inside = sources.text_folder(root, folder)
    return {
        file.relative_to(inside).as_posix(): f"{file.stat().st_size} bytes, sha256 {digest}"
        for file, digest in zip(files, checksums(root, files, "sha256"), strict=True)
    }


def _check_folder(folder: str, root: Path) -> None:
    sources.text_files(root, folder)


CORPORA: dict[str, Corpus] = {
    "openwebtext": Corpus(
        name="openwebtext",
        title="OpenWebText",
        tokenizer="gpt2",
        documents=sources.openwebtext,
        validation="0.05% of the documents, at random with seed 2357",  # nanoGPT's preparation
        source=_openwebtext_source,
        check_source=nothing_to_check,
        train_tokens=9_035_582_198,  # these two by nanoGPT's description of its preparation
        val_tokens=4_434_897,
    ),
    "python-docs": Corpus(
        name="python-docs",
        title="Python's documentation and library",
        tokenizer="bytes",
        edition=platform.python_version(),
        documents=sources.python_docs,
        source=_python_source,
        check_source=nothing_to_check,
    ),
}


def corpus(name: str) -> Corpus:
    """The corpus "openwebtext", "python-docs" or "text/<folder>", with another tokenizer after a colon.

    "text/<folder>" is text/<folder> or <folder> under the data root, by default with GPT-2's tokens.
    """
    base, colon, tokenizer = name.partition(":")
    if base in CORPORA:
        found = CORPORA[base]
    elif re.fullmatch(r"text(/\w[\w.-]*)+", base):
        found = _text_corpus(base)
    else:
        raise UserError(
            f"unknown corpus {base!r}; known: {', '.join(CORPORA)}, text/<folder under $IVON_DATA>"
        )
    if not colon or tokenizer == found.tokenizer:
        return found
    check_tokenizer(tokenizer)
    return replace(found, name=name, tokenizer=tokenizer, train_tokens=None, val_tokens=None)


def _text_corpus(name: str) -> Corpus:
    folder = name.removeprefix("text/")
    return Corpus(
        name=name,
        title=folder,
        tokenizer="gpt2",
        documents=sources.folder_documents(folder),
        source=partial(_folder_source, folder),
        check_source=partial(_check_folder, folder),
    )


def learned_vocabulary(tokenizer: str) -> int | None:
    """N of "bpe<N>"; None for a tokenizer that is not learned."""
    return int(tokenizer[3:]) if re.fullmatch(r"bpe\d+", tokenizer) else None


def check_tokenizer(name: str) -> None:
    """UserError if there is none of this name."""
    learned = learned_vocabulary(name)
    if name not in ("gpt2", "bytes") and learned is None:
        raise UserError(f"unknown tokenizer {name!r}; known: gpt2, bytes, bpe<tokens>, say bpe2048")
    if learned is not None and not 257 < learned <= LARGEST_VOCABULARY:
        raise UserError(f"tokenizer {name}: from 258 to {LARGEST_VOCABULARY} tokens")


def load_tokenizer(name: str, root: Path, folder: Path) -> Tokenizer:
    """The tokenizer; a learned one lies beside the shards in `folder`."""
    from experiments.data.text import bpe, tokenizers

    if name == "gpt2":
        return tokenizers.Gpt2Tokenizer(root)
    if name == "bytes":
        return tokenizers.ByteTokenizer()
    return bpe.LearnedTokenizer(folder / bpe.FILE)
