from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import TensorProto

from nvlm_trt.vision.dtype import NUMPY_DTYPE, ONNX_DTYPE, GraphDtype, convert, is_finite

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
shapes = hnp.array_shapes(min_dims=1, max_dims=2, max_side=9)


@settings(deadline=None)
@given(array=hnp.arrays(np.float32, shapes, elements=finite))
def test_bfloat16_values_stored_as_float32_come_back_exactly(array: NDArray[np.float32]):
    stored = array.astype(ml_dtypes.bfloat16)
    converted, exact = convert(stored.astype(np.float32), "bfloat16")
    assert exact
    assert converted.tobytes() == stored.tobytes()


@settings(deadline=None)
@given(array=hnp.arrays(np.float32, shapes, elements=finite), dtype=st.sampled_from(sorted(NUMPY_DTYPE)))
def test_conversion_rounds_to_nearest_and_says_when_it_rounded(array: NDArray[np.float32], dtype: GraphDtype):
    converted, exact = convert(array, dtype)
    with np.errstate(over="ignore"):
        wanted = array.astype(NUMPY_DTYPE[dtype])
    assert converted.dtype == NUMPY_DTYPE[dtype]
    assert converted.tobytes() == wanted.tobytes()
    assert exact == bool((wanted.astype(np.float64) == array).all())


def test_views_that_are_not_contiguous_convert_too():
    array = np.arange(24, dtype=np.float32).reshape(4, 6)[:, ::2]
    converted, exact = convert(array, "bfloat16")
    assert exact
    np.testing.assert_array_equal(converted.astype(np.float32), array)


@pytest.mark.parametrize("dtype", sorted(NUMPY_DTYPE))
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_value_is_seen(dtype: GraphDtype, bad: float):
    array = np.linspace(-60000, 60000, 100).astype(NUMPY_DTYPE[dtype])
    assert is_finite(array)
    array[57] = bad
    assert not is_finite(array)


def test_the_numbers_are_those_of_the_format() -> None:
    assert ONNX_DTYPE == {
        "bfloat16": TensorProto.BFLOAT16,
        "float16": TensorProto.FLOAT16,
        "float32": TensorProto.FLOAT,
    }
