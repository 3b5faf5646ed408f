"""The dtypes a vision graph may compute in, under the names that ONNX, numpy and safetensors have for them."""

from __future__ import annotations

import sys
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

__all__ = ["NUMPY_DTYPE", "ONNX_DTYPE", "SAFETENSORS_DTYPE", "GraphDtype", "convert", "is_finite"]

GraphDtype = Literal["bfloat16", "float16", "float32"]

# TensorProto.DataType's numbers, fixed by the format; importing onnx for them would make every plan pay for it.
ONNX_DTYPE: dict[GraphDtype, int] = {"bfloat16": 16, "float16": 10, "float32": 1}
NUMPY_DTYPE: dict[GraphDtype, np.dtype[Any]] = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
}
SAFETENSORS_DTYPE: dict[GraphDtype, str] = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def convert(array: NDArray[Any], dtype: GraphDtype) -> tuple[NDArray[Any], bool]:
    """``array`` in ``dtype``, rounded to nearest even, and whether every value came through unchanged."""
    target = NUMPY_DTYPE[dtype]
    if array.dtype == target:
        return array, True
    if (
        array.dtype == np.float32
        and dtype == "bfloat16"
        and sys.byteorder == "little"
        and _lower_halves_are_zero(array)
    ):
        # bfloat16 is the upper half of a float32. Where all lower halves are zero, as in tensors that were bfloat16
        # once, taking the upper halves is exact and some thirty times faster than rounding.
        halves = np.ascontiguousarray(array).view(np.uint16)
        return np.ascontiguousarray(halves[..., 1::2]).view(target), True
    with np.errstate(over="ignore"):
        converted = array.astype(target)
    exact = np.array_equal(converted.astype(np.float32), array.astype(np.float32))
    return converted, exact


def _lower_halves_are_zero(array: NDArray[Any]) -> bool:
    # All bits ORed together tell of every half at once, ten times as fast as looking at the lower ones alone.
    return not int(np.bitwise_or.reduce(array.view(np.uint32), axis=None)) & 0xFFFF


def is_finite(array: NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite."""
    if array.dtype == NUMPY_DTYPE["bfloat16"]:
        # All exponent bits set; comparing codes is far faster than ml_dtypes' element-wise isfinite.
        return not bool(((array.view(np.uint16) & 0x7F80) == 0x7F80).any())
    return bool(np.isfinite(array).all())
