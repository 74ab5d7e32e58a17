"""What a folder of token shards holds: its index, and whether the shards are what the index says."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, with_config

from experiments import strict_json
from experiments.data.checksums import checksums
from experiments.data.readers.disk import written_whole
from experiments.errors import RunError

FILE = "index.json"
FORMAT = 1
BYTES_PER_TOKEN = 2  # unsigned, little-endian
STRICT = ConfigDict(strict=True, extra="forbid")
Count = Annotated[int, Field(ge=0)]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of tokens: whole documents, each followed by the end of text."""

    file: Annotated[str, Field(pattern=r"^[^/]+$")]  # of the same folder
    tokens: Count
    documents: Count
    sha256: str


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Index:
    """The shards of each split in their order, and what they were made of.

    source: as `Corpus.source` described the text. versions: of the software that made the tokens.
    """

    corpus: str
    tokenizer: str
    vocabulary: Count
    end_of_text: Count
    source: dict[str, str]
    versions: dict[str, str]
    splits: dict[str, tuple[Shard, ...]] = field(default_factory=dict)

    def tokens(self, split: str) -> int:
        return sum(shard.tokens for shard in self.splits[split])

    def fingerprint(self, split: str) -> str:
        """A hash of what a training on this split sees; not of the software that made it, nor of its day."""
        seen = [self.tokenizer, self.vocabulary, self.end_of_text]
        shards = [[shard.tokens, shard.sha256] for shard in self.splits[split]]
        return hashlib.sha256(json.dumps([*seen, shards]).encode()).hexdigest()[:16]

    @property
    def content(self) -> dict[str, Any]:
        """What tells these tokens from others, in both splits."""
        shards = {split: [shard.sha256 for shard in shards] for split, shards in self.splits.items()}
        return {"tokenizer": self.tokenizer, "vocabulary": self.vocabulary, "shards": shards}


_INDEX = TypeAdapter(Index)


def write_index(file: Path, index: Index) -> None:
    """Whole or not at all."""
    with written_whole(file) as temporary:
        temporary.write_text(
            json.dumps({"format": FORMAT, **asdict(index)}, indent=1) + "\n", encoding="utf-8"
        )


def read_index(file: Path) -> Index | None:
    """The index; None if there is no such file."""
    try:
        content: dict[str, Any] = strict_json.parse(file.read_bytes())
        if content.pop("format") != FORMAT:
            raise RunError(f"{file} is of another version of this program: remove {file.parent}")
        return _INDEX.validate_json(json.dumps(content))  # JSON, as it has no tuples
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RunError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        what = " ".join(str(error).split())[:200]
        raise RunError(f"{file} is damaged ({what}): remove {file.parent}, and it is made again") from None


def check_sizes(folder: Path, index: Index) -> None:
    """RunError unless every shard is there, as long as it was."""
    for shard in (shard for shards in index.splits.values() for shard in shards):
        file = folder / shard.file
        expected = shard.tokens * BYTES_PER_TOKEN
        try:
            found = file.stat().st_size
        except OSError as error:
            raise RunError(f"shard {file}: {error.strerror}; remove {folder}, and it is made again") from None
        if found != expected:
            raise RunError(
                f"shard {file} has {found} bytes, not {expected}: remove {folder}, and it is made again"
            )


def check_shards(root: Path, folder: Path, index: Index) -> None:
    """RunError unless the bytes of every shard are those that were written: read once, then remembered."""
    check_sizes(folder, index)
    shards = [shard for shards in index.splits.values() for shard in shards]
    found = checksums(root, [folder / shard.file for shard in shards], "sha256")
    for shard, digest in zip(shards, found, strict=True):
        if digest != shard.sha256:
            raise RunError(
                f"shard {folder / shard.file} has sha256 {digest}, not {shard.sha256}: remove {folder}, and "
                "it is made again"
            )
