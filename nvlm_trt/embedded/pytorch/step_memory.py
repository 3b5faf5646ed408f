"""The memory that the engine's process shares with the ranks' processes: a step's inputs, and its logits.

It is an anonymous file: it has no name that could collide, and is gone with the last process that holds it.
"""

from __future__ import annotations

import math
import mmap
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.embedded.pytorch.sizes import RunnerSizes

__all__ = ["StepMemory"]

_ALIGNMENT = 64


class StepMemory:
    """``ids`` int32 [most ids of a step], ``lengths`` int32 [batch], ``tables`` int32 [batch, width], ``rows`` float32
    [max_rows, hidden] of a prompt table, ``logits`` float32 [batch, vocab].

    ``fd`` None makes the file; a number is one that another process made with the same sizes.
    """

    def __init__(self, sizes: RunnerSizes, vocab_size: int, hidden_size: int, fd: int | None = None) -> None:
        batch = sizes.max_batch_size
        shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
            "ids": (np.int32, (max(sizes.max_rows, batch),)),
            "lengths": (np.int32, (batch,)),
            "tables": (np.int32, (batch, sizes.width)),
            "rows": (np.float32, (sizes.max_rows, hidden_size)),
            "logits": (np.float32, (batch, vocab_size)),
        }
        starts, size = {}, 0
        for name, (dtype, shape) in shapes.items():
            starts[name] = size
            size += -(-math.prod(shape) * np.dtype(dtype).itemsize // _ALIGNMENT) * _ALIGNMENT
        if fd is None:
            fd = os.memfd_create("nvlm-decoder-step")
            os.ftruncate(fd, size)
        self.fd = fd
        mapped = mmap.mmap(fd, size)
        arrays = {
            name: np.frombuffer(mapped, dtype, math.prod(shape), starts[name]).reshape(shape)
            for name, (dtype, shape) in shapes.items()
        }
        self.ids: NDArray[np.int32] = arrays["ids"]
        self.lengths: NDArray[np.int32] = arrays["lengths"]
        self.tables: NDArray[np.int32] = arrays["tables"]
        self.rows: NDArray[np.float32] = arrays["rows"]
        self.logits: NDArray[np.float32] = arrays["logits"]
