"""Text files that users write: one rule for their encoding."""

from pathlib import Path

from experiments.errors import UserError

BYTE_ORDER_MARK = "\ufeff"


def read_utf8(file: Path) -> str:
    """The text of a file, without a byte-order mark and with \\n at the end of its lines.

    UserError that names file and line where it is not UTF-8; OSError where it cannot be read.
    """
    text = decode_utf8(file.read_bytes(), file)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decode_utf8(content: bytes, file: Path, line: int = 1, *, of: str = "line") -> str:
    """Bytes of `file`, the first of which is in `line`, as text; UserError if they are not UTF-8.

    A byte-order mark goes where it begins them. of: what is counted, if not lines.
    """
    try:
        return content.decode("utf-8").removeprefix(BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        if of == "line":
            line += content.count(b"\n", 0, error.start)
        raise UserError(
            f"{file}, {of} {line}: byte {content[error.start]:#04x} is not UTF-8; save the text as UTF-8"
        ) from None
