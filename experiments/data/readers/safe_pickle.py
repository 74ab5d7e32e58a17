"""Reading a pickled dictionary of numpy arrays without running what else a pickle may hold.

NumPy's own classes are not called: with a type that only a pickle can describe, an array of theirs has
pointers that the file has chosen. What the file says of an array is written down, and the array made of that.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.errors import RunError

NUMBERS = "biuf"  # kinds of a dtype whose bytes are all that there is to know


def _encode_latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into a pickle of protocol 2. Other codecs are no part of that."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
    return text.encode("latin-1")


@dataclass
class _Type:
    """In place of a numpy.dtype."""

    name: str
    swapped: Any = False
    copied: Any = False
    order: str = "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def dtype(self) -> np.dtype[Any]:
        found = np.dtype(self.name)
        if found.kind not in NUMBERS:
            raise pickle.UnpicklingError(f"it has an array of {found}, which are no numbers")
        return found if self.order in "|=" else found.newbyteorder(self.order)


class _Array:
    """In place of a numpy.ndarray."""

    state: tuple[Any, ...] = ()

    def __init__(self, *_start: Any) -> None:
        """NumPy's pickles begin with an empty array; what it really holds comes as its state."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def made(self) -> np.ndarray:
        _version, shape, element, by_columns, raw = self.state
        content = raw.encode("latin-1") if isinstance(raw, str) else raw  # Python 2's string of bytes
        flat = np.frombuffer(content, dtype=element.dtype())
        flat = flat.astype(flat.dtype.newbyteorder("="))  # a copy that may be written to
        return flat.reshape(shape, order="F" if by_columns else "C")


_ALLOWED = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): _Array,  # numpy 1 and before
    ("numpy._core.multiarray", "_reconstruct"): _Array,  # numpy 2
    ("_codecs", "encode"): _encode_latin1,
    ("__builtin__", "bytes"): bytes,  # how Python 3 writes none
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no data file needs") from None


def read_pickled_arrays(file: Path) -> dict[str, Any]:
    """The dictionary in `file`, of strings, numbers, lists of these, and numpy arrays of numbers."""
    try:
        with file.open("rb") as stream:
            content = _ArraysOnly(stream, encoding="latin1").load()  # written by Python 2
        if isinstance(content, dict):
            content = {
                key: value.made() if isinstance(value, _Array) else value for key, value in content.items()
            }
    except FileNotFoundError:
        raise RunError(f"{file} is missing: remove the folder to download it again, or complete it") from None
    except Exception as error:  # damaged bytes may raise anything: ValueError, IndexError, MemoryError, ...
        raise RunError(
            f"cannot read {file}: {error or type(error).__name__}; was it copied whole?"
        ) from error
    if not isinstance(content, dict):
        raise RunError(f"cannot read {file}: it holds a {type(content).__name__}, not a dictionary of arrays")
    return content
