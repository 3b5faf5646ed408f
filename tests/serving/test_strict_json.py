from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvlm_trt.errors import RequestError
from nvlm_trt.serving.strict_json import read_strict_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_plain_json_is_read_as_by_everybody(value):
    text = json.dumps(value)
    assert read_strict_json(text.encode()) == json.loads(text)


@given(st.text('[]{}"\\ua0:,', max_size=40))
def test_anything_else_is_an_error_of_ours(text):
    try:
        read = read_strict_json(text.encode())
    except RequestError:
        return
    assert read == json.loads(text)


@pytest.mark.parametrize("depth", [64, 65, 1000, 100_000])
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_depth_is_bounded(brackets, depth):
    opening = {"[": "[", "{": '{"a":'}[brackets[0]]
    text = (opening * depth + "1" + brackets[1] * depth).encode()
    if depth == 64:
        read_strict_json(text)
    else:
        with pytest.raises(RequestError, match="nested more than 64 levels"):
            read_strict_json(text)


def test_brackets_in_texts_are_no_depth():
    text = json.dumps(["[" * 1000, '\\"' + "{" * 1000])
    assert read_strict_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize("part", ["{}", "[]", '""', "1", '"\\""'])
def test_parts_are_bounded(part):
    assert len(read_strict_json(f"[{','.join([part] * 20_000)}]".encode())) == 20_000
    with pytest.raises(RequestError, match="more than 200,000 parts"):
        read_strict_json(f"[{','.join([part] * 200_001)}]".encode())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"[1] 2", "is not JSON"),
        (b"{'a': 1}", "is not JSON"),
        (b'"unended [[[', "is not JSON"),
        (b"[" * 60, "is not JSON"),
        (b'{"a": 1, "a": 1}', "has the key 'a' twice"),
        (b'{"b": {"a": 1, "\\u0061": 2}}', "has the key 'a' twice"),
        (b"[NaN]", "holds NaN"),
        (b'{"a": -Infinity}', "holds -Infinity"),
        (b"9" * 5000, "is not JSON"),
        (b"\xff\xfe{\x00}\x00", "is not valid UTF-8"),
        (b"\xef\xbb\xbf{}", "is not JSON"),
    ],
)
def test_what_is_not_one_value_for_all_is_refused(data, says):
    with pytest.raises(RequestError, match=says):
        read_strict_json(data)
