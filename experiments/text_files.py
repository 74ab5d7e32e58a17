"""Text files that users write: one rule for their encoding."""

import codecs
from pathlib import Path

from experiments.errors import UserError


def read_utf8(file: Path) -> str:
    """The text of a file, without a byte-order mark and with \\n at the end of its lines.

    UserError that names file and line where it is not UTF-8; OSError where it cannot be read.
    """
    text = decode_utf8(file.read_bytes(), file)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decode_utf8(content: bytes, file: Path, line: int = 1) -> str:
    """Bytes of `file`, the first of which is in `line`, as text; UserError if they are not UTF-8.

    A byte-order mark goes where the file begins, and nowhere else: further on it is a character of the text.
    """
    if line == 1:
        content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        raise UserError(
            f"{file}, line {line}: byte {content[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        ) from None
