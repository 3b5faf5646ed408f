"""Memory in whole cache lines."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.embedded.compiled.vector_writer import LINE

__all__ = ["Arena", "aligned", "lines"]


class Arena:
    """One piece of memory for arrays that live equally long. From 4 MB on numpy asks the system for large pages, which
    makes reading all of it a fifth faster.
    """

    def __init__(self, num_bytes: int) -> None:
        self._memory, self._end = aligned((num_bytes,), np.uint8), 0

    def take(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        start, size = self._end, int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._end += lines(size)
        array: NDArray[Any] = self._memory[start : start + size].view(dtype).reshape(shape)
        return array


def lines(num_bytes: int) -> int:
    """``num_bytes`` rounded up to whole lines."""
    return -(-num_bytes // LINE) * LINE


def aligned(shape: tuple[int, ...], dtype: Any, *, zeroed: bool = False) -> NDArray[Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = (np.zeros if zeroed else np.empty)(size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    array: NDArray[Any] = memory[start : start + size].view(dtype).reshape(shape)
    return array
