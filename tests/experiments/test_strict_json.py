"""JSON that is read back: what `json` says of it where it is good, one line where it is not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.strict_json import parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_what_json_writes_reads_back_exactly(value):
    assert parse(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{} {}",
        b"\xff",
        b'"\xff"',
        b'"\\ud800"',
        b"NaN",
        b"[Infinity]",
        b"[-1e400]",
        b"[1" + b"0" * 10_000 + b"]",
        b'{"a": 1, "a": 1}',
        b'[{"b": {"a": 1, "c": 2, "a": 3}}]',
        b"[" * 200_000,
        b'{"a":' * 500 + b"1" + b"}" * 500,
    ],
    ids=lambda text: repr(text[:20]),
)
def test_what_is_no_good_is_a_line(text):
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
