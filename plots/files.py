"""Writing a file so that a reader, or a kill midway, leaves the old content or the new, never a part."""

import os
from pathlib import Path

import pandas as pd


def replace_file(path: Path, content: bytes) -> Path:
    """Give `path` this content in one step: a temporary file beside it, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def csv_bytes(data: pd.DataFrame) -> bytes:
    """The data as CSV, the same bytes on every system; floats keep all their digits."""
    return data.to_csv(index=False, lineterminator="\n").encode()
