"""Casts to the model's dtype. The release stores some bfloat16 values as float32; casting those loses nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.tensor_spec import DTYPES

__all__ = ["MODEL_TAGS", "cast_to_model"]

# config.json's word for the dtype, and the safetensors tag.
MODEL_TAGS = {"bfloat16": "BF16", "float16": "F16"}
# Elements: stays in a core's second-level cache.
_BLOCK = 1 << 16


def cast_to_model(values: NDArray[Any], out: NDArray[Any]) -> bool:
    """Round ``values`` into ``out``, C-contiguous and of the model's dtype; says whether no value has changed."""
    exact = True
    flat, flat_out = values.reshape(-1), out.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        own = slice(start, start + _BLOCK)
        exact &= _cast_block(flat[own], flat_out[own])
    return exact


def _cast_block(values: NDArray[Any], out: NDArray[Any]) -> bool:
    if values.dtype == np.float32 and out.dtype == DTYPES["BF16"]:
        bits = values.view(np.uint32)
        if not (bits & 0xFFFF).any():
            out.view(np.uint16)[...] = bits >> 16
            return True
    with np.errstate(over="ignore"):
        out[...] = values.astype(out.dtype)
    return np.array_equal(out.astype(np.float32), values.astype(np.float32))
