"""A byte-pair encoding of a few thousand tokens, learned from a corpus: for networks of a million weights."""

from collections.abc import Iterator
from pathlib import Path

from experiments.data.text.sources import first_characters
from experiments.data.text.tokenizers import END_OF_TEXT, fast_tokenizer_files, need
from experiments.errors import RunError

LEARNED_FROM_CHARACTERS = 100_000_000  # the start of the training split; more would hardly change the pairs
FILE = "tokenizer.json"


class LearnedTokenizer:
    """Byte pairs over UTF-8, cut into words as GPT-2 does; the end of text is the last token."""

    def __init__(self, file: Path) -> None:
        need("tokenizers", "a learned tokenizer")
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing more special
            raise RunError(f"cannot read the tokenizer {file}: {error}") from None
        # A text that spells the end of text must not become it; the file does not keep this.
        self._tokenizer.encode_special_tokens = True
        self.vocabulary = self._tokenizer.get_vocab_size()
        self.end_of_text = self.vocabulary - 1
        self.name = f"bpe{self.vocabulary}"

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text).ids

    def decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=False)

    def transformers_files(self) -> dict[str, bytes]:
        return fast_tokenizer_files(self._tokenizer.to_str())


def learn(documents: Iterator[str], vocabulary: int) -> str:
    """The tokenizer of `vocabulary` tokens, the end of text among them, as JSON: a function of the text."""
    need("tokenizers", "a learned tokenizer")
    import tokenizers

    learned = tokenizers.Tokenizer(tokenizers.models.BPE())
    learned.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary - 1,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learned.train_from_iterator(first_characters(documents, LEARNED_FROM_CHARACTERS), trainer)
    if (found := learned.get_vocab_size()) != vocabulary - 1:
        raise RunError(f"this text gives only {found + 1} tokens, not {vocabulary}: ask for a smaller bpe")
    learned.add_special_tokens([END_OF_TEXT])
    return learned.to_str(pretty=True)
