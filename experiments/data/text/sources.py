"""Where documents come from: OpenWebText, Python's own documentation, and folders of text.

A source gives the documents of a split in an order that never changes, from any one of them on.
"""

import hashlib
import json
import re
import sysconfig
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from experiments.data.text.tokenizers import need
from experiments.errors import RunError, UserError
from experiments.text_files import BYTE_ORDER_MARK, decode_utf8, read_utf8

Documents = Callable[[Path, str, int], Iterator[str]]  # (data root, "train" or "val", documents to skip)

VALIDATION_SHARE = 0.05  # of documents, where the paper says nothing
PIECE_CHARACTERS = 8192
PYTHON_DOCS_CHARACTERS = 2_000_000
OPENWEBTEXT = "Skylion007/openwebtext"
TEXT_ENDINGS = (".txt", ".jsonl", ".parquet")
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*?(?=\S|\Z)", re.ASCII)


def openwebtext(root: Path, split: str, skipped: int) -> Iterator[str]:
    """The paper's split, that of nanoGPT's preparation: 0.05 % of the documents, drawn with seed 2357."""
    need("datasets", "OpenWebText")
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError, DatasetsError

    try:
        whole = load_dataset(OPENWEBTEXT, split="train", cache_dir=str(root / "openwebtext"))
    # No network; what the Hub answers; a program in place of data, which `datasets` does not run any more.
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        # A full disk or a broken stream is the cause of an error whose own words do not tell.
        told = (error.__cause__ or error) if isinstance(error, DatasetGenerationError) else error
        raise RunError(
            f"OpenWebText ({OPENWEBTEXT} of the Hugging Face Hub, 54 GB) is not in {root / 'openwebtext'} "
            f"and cannot be fetched: {' '.join(str(told).split())[:200]}"
        ) from error
    halves = whole.train_test_split(test_size=0.0005, seed=2357, shuffle=True)
    chosen = halves["train" if split == "train" else "test"]
    for first in range(skipped, len(chosen), 1000):
        yield from chosen[first : first + 1000]["text"]


def python_docs(_root: Path, split: str, skipped: int) -> Iterator[str]:
    """The topics of Python's `help()`, then sources of its library in alphabetical order: 2 MB together."""
    return islice(_of_split(first_characters(_python_texts(), PYTHON_DOCS_CHARACTERS), split), skipped, None)


def _python_texts() -> Iterator[str]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield from pieces(topics[name])
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*.py")):
        yield from pieces(file.read_text(encoding="utf-8", errors="replace"))


def first_characters(texts: Iterator[str], bound: int) -> Iterator[str]:
    """The texts from the first on that have no more than `bound` characters together."""
    for text in texts:
        bound -= len(text)
        if bound < 0:
            return
        yield text


def folder_documents(name: str) -> Documents:
    """The documents of a folder of the user's: .txt, .jsonl (field "text") and .parquet (column "text").

    A line or row is a document. A .txt file is one, or several if it is long: it is cut at blank lines into
    pieces of at least 8192 characters, for a split that can be made of one large file.

    All are UTF-8. A byte-order mark at the beginning of a document is no part of it.
    """

    def documents(root: Path, split: str, skipped: int) -> Iterator[str]:
        read = (text for file in text_files(root, name) for text in _READERS[file.suffix](file))
        texts = (text.removeprefix(BYTE_ORDER_MARK) for text in read)
        return islice(_of_split(texts, split), skipped, None)

    return documents


def text_folder(root: Path, name: str) -> Path:
    """`text/<name>` below the data root, else `<name>`; UserError if neither is there."""
    for folder in (root / "text" / name, root / name):
        if folder.is_dir():
            return folder
    raise UserError(f"there is no folder of text {root / 'text' / name}, nor {root / name}: put text there")


def text_files(root: Path, name: str) -> list[Path]:
    """Its files, also in subfolders, sorted by path; UserError if there is none."""
    folder = text_folder(root, name)
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    found = [folder / n for n in names if n.endswith(TEXT_ENDINGS) and not re.search(r"(^|/)\.", n)]
    if not found:
        raise UserError(f"{folder} has no file that ends with {', '.join(TEXT_ENDINGS)}")
    if any(file.suffix == ".parquet" for file in found):
        need("pyarrow", "a .parquet file")
    return found


def pieces(text: str) -> Iterator[str]:
    """The text cut after blank lines; joined, the pieces are the text, and all but the last are long."""
    start = 0
    for blank in _BLANK_LINES.finditer(text):
        if blank.end() - start >= PIECE_CHARACTERS:
            yield text[start : blank.end()]
            start = blank.end()
    if start < len(text):
        yield text[start:]


def _of_split(texts: Iterator[str], split: str) -> Iterator[str]:
    """A document's split depends on its own text alone, so equal ones are on the same side."""
    for text in texts:
        if text.strip() and (_in_validation(text) == (split == "val")):
            yield text


def _in_validation(text: str) -> bool:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < VALIDATION_SHARE * 2**64


def _read_txt(file: Path) -> Iterator[str]:
    return pieces(read_utf8(file))


def _read_jsonl(file: Path) -> Iterator[str]:
    with file.open("rb") as stream:
        # Whatever ends a line; the same characters within a text are spelled out in JSON.
        lines = (line for part in stream for line in part.splitlines())
        for number, line in enumerate(lines, 1):
            content = decode_utf8(line, file, number)
            if not content.strip():
                continue
            try:
                text = json.loads(content)["text"]
            except (ValueError, TypeError, KeyError, RecursionError):
                text = None
            if not isinstance(text, str):
                raise UserError(f'{file}, line {number}: not an object with a field "text"')
            yield text.encode("utf-8", "replace").decode()  # JSON can spell halves of characters


def _read_parquet(file: Path) -> Iterator[str]:
    import pyarrow
    from pyarrow import parquet

    row = 0
    try:
        with parquet.ParquetFile(file) as table:
            for rows in table.iter_batches(batch_size=1000, columns=["text"]):
                for content in rows.column("text").cast(pyarrow.large_binary()).to_pylist():
                    row += 1
                    if content is not None:
                        yield decode_utf8(content, file, row, of="row")
    except (pyarrow.ArrowException, KeyError, OSError) as error:
        told = " ".join(str(error).split())[:200]
        raise UserError(f'{file} is no parquet file with a column "text" of text: {told}') from None


_READERS = {".txt": _read_txt, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
