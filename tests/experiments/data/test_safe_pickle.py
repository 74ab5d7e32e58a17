"""Pickles of arrays are read as numpy reads them, and never by numpy's own code for pickles."""

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from experiments.data.readers.safe_pickle import read_pickled_arrays
from experiments.errors import RunError

NUMBERS = st.one_of(
    arrays.boolean_dtypes(),
    arrays.integer_dtypes(endianness="="),
    arrays.integer_dtypes(endianness=">"),
    arrays.unsigned_integer_dtypes(),
    arrays.floating_dtypes(endianness="="),
    arrays.floating_dtypes(endianness=">"),
)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    file = tmp_path_factory.mktemp("pickles") / "batch"

    def read(content: bytes) -> dict[str, Any]:
        file.write_bytes(content)
        return read_pickled_arrays(file)

    return read


@given(array=arrays.arrays(NUMBERS, arrays.array_shapes(min_dims=0, min_side=0)), by_columns=st.booleans())
def test_arrays_are_what_pickle_itself_reads(read, array, by_columns):
    array = np.asfortranarray(array) if by_columns else array
    content = pickle.dumps({"data": array, "labels": [1, 2], "name": "a"}, protocol=2)
    found, there = read(content), pickle.loads(content)
    assert found["data"].dtype == there["data"].dtype and found["data"].shape == there["data"].shape
    assert found["data"].tobytes() == there["data"].tobytes() and found["data"].flags.writeable
    assert (found["labels"], found["name"]) == ([1, 2], "a")


class Said:
    """Pickled as a call of a function, with a state."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


RECONSTRUCT = np.empty(0).__reduce__()[0]


def crafted(dtype: object, shape: tuple[int, ...] = (4,), raw: object = b"A" * 32) -> bytes:
    array = Said(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, dtype, False, raw))
    return pickle.dumps({"data": array}, protocol=2)


@pytest.mark.parametrize(
    "content",
    [
        # Objects whose type denies that they are: 32 bytes become four pointers.
        crafted(Said(np.dtype, ("O", False, True), (3, "|", None, None, None, 8, 8, 0))),
        crafted(np.dtype("O"), raw=[1, 2, 3, 4]),
        crafted(Said(np.dtype, ("V8", False, True), (3, "|", None, None, None, 1 << 40, 1, 0))),
        crafted(np.dtype("u1"), shape=(1 << 40,)),
        crafted(np.dtype("u1"), shape=(-1, 5)),
        crafted(np.dtype("f8"), raw=b"A" * 31),
        pickle.dumps({"data": Said(np.ndarray, ((1 << 45,), "u1"))}, protocol=2),
    ],
    ids=["hidden pointers", "objects", "size", "shape", "negative shape", "half a number", "memory"],
)
def test_what_no_data_file_has_is_one_line(read, content):
    with pytest.raises(RunError, match="cannot read") as caught:
        read(content)
    assert "\n" not in str(caught.value)
