"""FP8 (e4m3) arithmetic: which byte a weight becomes, and what value that byte restores.

One float32 scale per tensor is a multiplier that restores values: ``restored = stored * scale`` with
``scale = amax / 448``. ``stored`` is the quotient ``value / scale``, clipped to ±448 and rounded to the nearest e4m3
number, ties to even. The quotient must be a division: multiplying by the reciprocal moves values off a tie, and the
bytes would no longer be those that TensorRT-LLM's own quantiser writes. It is computed in float32. The unified Hugging
Face form rounds it to the model's dtype first, which moves some 3 % of the bytes by one step (``Quantizer``'s
``quotient_dtype``).

The cast is a table. A weight has 16 bits, so under a given scale there are only 65536 different results. They are
computed once with the exact formula and looked up, which is ten times as fast as casting value by value and equal by
construction. float32 weights whose lower 16 bits are zero (bfloat16 values stored wide) use it too; all others are cast
one by one.

Work proceeds in blocks that fit the cache. Nothing here holds a second copy of a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

__all__ = ["E4M3_MAX", "FLOAT32", "Quantizer", "amax", "quantize", "restore", "scale_for"]

# The largest finite e4m3 number (the "fn" form: no infinities, one NaN per sign).
E4M3_MAX = np.float32(448)

# 64 Ki elements: codes, look-up indices and bytes of a block stay in a core's second-level cache (measured best).
_BLOCK = 1 << 16
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT32 = np.dtype(np.float32)


def amax(values: NDArray[Any]) -> np.float32:
    """The largest magnitude in a bfloat16, float16 or float32 tensor; not finite if any value is not.

    Magnitudes of IEEE numbers sort like their bits, and infinity and NaN lie above all others.
    """
    bits = values.view(_unsigned(values.dtype))
    magnitude = np.iinfo(bits.dtype).max >> 1
    largest = max((int((block & magnitude).max()) for block in _blocks(bits)), default=0)
    return np.float32(np.array([largest], bits.dtype).view(values.dtype).astype(np.float32)[0])


def scale_for(largest: np.float32) -> np.float32:
    """The scale that maps ``largest`` to 448. For a tensor of zeros it is 1, since anything but zero would do."""
    scale = np.float32(largest) / E4M3_MAX
    return scale if scale > 0 else np.float32(1)


class Quantizer:
    """Casts to e4m3 under one scale, for tensors that come in pieces: the tables are made once."""

    def __init__(self, scale: np.float32, quotient_dtype: np.dtype[Any] = FLOAT32) -> None:
        self._scale = np.float32(scale)
        self._quotient_dtype = quotient_dtype
        self._tables: dict[np.dtype[Any], NDArray[np.uint8]] = {}

    def __call__(self, values: NDArray[Any], stored: NDArray[Any]) -> None:
        """Finite bfloat16, float16 or float32 values into ``stored``, e4m3 of the same shape, C-contiguous."""
        wide = values.dtype == np.float32
        table = self._table(_BFLOAT16 if wide else values.dtype)
        bits = values.view(_unsigned(values.dtype))
        for block, out in zip(_blocks(bits), _blocks(stored.view(np.uint8)), strict=True):
            if wide and (block & 0xFFFF).any():
                out[...] = self._cast(block.view(np.float32))
            else:
                codes = (block >> 16).astype(np.uint16) if wide else block
                # "wrap" only skips the bounds check: every code is within the table.
                np.take(table, codes, out=out, mode="wrap")

    def _table(self, dtype: np.dtype[Any]) -> NDArray[np.uint8]:
        """The e4m3 byte of each of the 65536 codes of a 16-bit type; those of infinities and NaNs are never used."""
        if dtype not in self._tables:
            every = np.arange(1 << 16, dtype=np.uint16).view(dtype).astype(np.float32)
            self._tables[dtype] = self._cast(np.nan_to_num(every, nan=0.0))
        return self._tables[dtype]

    def _cast(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        with np.errstate(over="ignore"):  # a quotient beyond the type's range clips like any other
            quotient = (values / self._scale).astype(self._quotient_dtype, copy=False).astype(np.float32, copy=False)
        return np.clip(quotient, -E4M3_MAX, E4M3_MAX).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)


def quantize(values: NDArray[Any], scale: np.float32) -> NDArray[Any]:
    """Finite bfloat16, float16 or float32 values to e4m3 of the same shape, C-contiguous."""
    stored = np.empty(values.shape, ml_dtypes.float8_e4m3fn)
    Quantizer(scale)(values, stored)
    return stored


def restore(stored: NDArray[Any], scale: np.float32) -> NDArray[np.float32]:
    """e4m3 values times their scale, float32."""
    table = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32) * np.float32(scale)
    return np.take(table, stored.view(np.uint8))


def _unsigned(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.uint32 if dtype == np.float32 else np.uint16)


def _blocks(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Views of about ``_BLOCK`` elements along the first axis, whatever the strides."""
    rows = max(1, _BLOCK // max(1, int(np.prod(values.shape[1:]))))
    for start in range(0, len(values), rows):
        yield values[start : start + rows]
