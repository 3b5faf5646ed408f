"""Name, dtype and shape of one tensor, and the table of safetensors dtype tags."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["DTYPES", "TensorSpec", "dtype_tag"]

# In the rank order of the safetensors library, which lays the highest rank first in a file.
DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "BOOL": np.dtype(np.bool_),
        "U8": np.dtype(np.uint8),
        "I8": np.dtype(np.int8),
        "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
        "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
        "I16": np.dtype(np.int16),
        "U16": np.dtype(np.uint16),
        "F16": np.dtype(np.float16),
        "BF16": np.dtype(ml_dtypes.bfloat16),
        "I32": np.dtype(np.int32),
        "U32": np.dtype(np.uint32),
        "F32": np.dtype(np.float32),
        "F64": np.dtype(np.float64),
        "I64": np.dtype(np.int64),
        "U64": np.dtype(np.uint64),
    }
)
_TAGS = {dtype: tag for tag, dtype in DTYPES.items()}


def dtype_tag(dtype: Any) -> str:
    """The safetensors tag of a numpy or ml_dtypes dtype; ``KeyError`` where there is none."""
    return _TAGS[np.dtype(dtype)]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """``dtype`` is a safetensors tag, one of ``DTYPES``."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        return DTYPES[self.dtype]

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.num_elements * self.numpy_dtype.itemsize
