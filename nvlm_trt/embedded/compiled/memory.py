"""Memory that begins with a cache line."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.embedded.compiled.vector_writer import LINE

__all__ = ["aligned"]


def aligned(shape: tuple[int, ...], dtype: Any, *, zeroed: bool = False) -> NDArray[Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = (np.zeros if zeroed else np.empty)(size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    array: NDArray[Any] = memory[start : start + size].view(dtype).reshape(shape)
    return array
