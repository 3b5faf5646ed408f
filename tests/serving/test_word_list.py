from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.errors import RequestError
from nvlm_trt.serving.word_list import from_tensor, to_tensor

WORDS = st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=6).map(tuple), max_size=6).map(tuple)


def test_the_form_of_tensorrt_llm():
    assert to_tensor([(5, 6), (7,)]).tolist() == [[[5, 6, 7], [2, 3, -1]]]
    assert to_tensor([(5,), (6,)]).tolist() == [[[5, 6], [1, 2]]]
    assert to_tensor([]).tolist() == [[[0], [-1]]]
    assert to_tensor([]).dtype == np.int32


@given(WORDS)
@settings(deadline=None)
def test_there_and_back(words):
    assert from_tensor(to_tensor(words)) == words


@given(WORDS, st.integers(0, 5))
@settings(deadline=None)
def test_filling_changes_nothing(words, extra):
    tensor = to_tensor(words)
    filled = np.zeros((1, 2, tensor.shape[2] + extra), np.int32)
    filled[0, 1] = -1
    filled[:, :, : tensor.shape[2]] = tensor
    assert from_tensor(filled) == words


@pytest.mark.parametrize(
    "tensor",
    [
        np.zeros((2, 3), np.int32),
        np.zeros((2, 2, 3), np.int32),
        np.zeros((1, 2, 3), np.float32),
        np.array([[[1, 2], [0, -1]]], np.int32),
        np.array([[[1, 2], [2, 1]]], np.int32),
        np.array([[[1, 2], [3, -1]]], np.int32),
        np.array([[[1, 2], [-1, 2]]], np.int32),
        np.array([[[1, 2], [-2, -1]]], np.int32),
        np.array([[[-1, 2], [2, -1]]], np.int32),
        np.array([[[1, 2, 3], [1, 3, 2]]], np.int32),
        to_tensor([(5,)] * (2**16 + 1)),
    ],
)
def test_what_is_refused(tensor):
    with pytest.raises(RequestError) as caught:
        from_tensor(tensor)
    assert caught.value.code == "E-PARAM-WORDS"


@given(st.lists(st.lists(st.integers(-3, 6), min_size=1, max_size=5), min_size=2, max_size=2))
@settings(deadline=None)
def test_any_two_rows_are_words_or_refused(rows):
    width = min(map(len, rows))
    tensor = np.array([[row[:width] for row in rows]], np.int32)
    words = None
    try:
        words = from_tensor(tensor)
    except RequestError as error:
        code = error.code
    assert all(words) if words is not None else code == "E-PARAM-WORDS"
