"""Reading a pickled dictionary of numpy arrays without running what else a pickle may hold."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from experiments.errors import RunError


def _encode_latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into a pickle of protocol 2. Other codecs are no part of that."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
    return text.encode("latin-1")


_RECONSTRUCT = np.empty(0).__reduce__()[0]  # numpy's function, without its private and changing address
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,  # numpy 1 and before
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,  # numpy 2
    ("_codecs", "encode"): _encode_latin1,
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no data file needs") from None


def read_pickled_arrays(file: Path) -> dict[str, Any]:
    """The dictionary in `file`; strings and numbers, lists, numpy arrays and nothing else may be in it."""
    try:
        with file.open("rb") as stream:
            content = _ArraysOnly(stream, encoding="latin1").load()  # written by Python 2
    except FileNotFoundError:
        raise RunError(f"{file} is missing: remove the folder to download it again, or complete it") from None
    except Exception as error:  # damaged bytes may raise anything: ValueError, IndexError, MemoryError, ...
        raise RunError(
            f"cannot read {file}: {error or type(error).__name__}; was it copied whole?"
        ) from error
    if not isinstance(content, dict):
        raise RunError(f"cannot read {file}: it holds a {type(content).__name__}, not a dictionary of arrays")
    return content
