"""A fixed set of large buffers, passed between threads: a thread that waits for one slows down to the others' pace."""

from __future__ import annotations

import queue

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.direct_io import aligned_buffer

__all__ = ["BufferPool", "PoolClosed"]

Bytes = NDArray[np.uint8]


class PoolClosed(Exception):
    """The pool was closed while a thread waited for a buffer: it should end."""


class BufferPool:
    """At most ``count`` buffers of ``nbytes``, each made when it is first wanted and then used again and again.

    One thread takes; any may give back.
    """

    def __init__(self, count: int, nbytes: int) -> None:
        self._nbytes = nbytes
        self._left_to_make = count
        self._free: queue.SimpleQueue[Bytes | None] = queue.SimpleQueue()

    def take(self) -> Bytes:
        """Waits until there is one. Raises ``PoolClosed``."""
        if self._free.empty() and self._left_to_make:
            self._left_to_make -= 1
            return aligned_buffer(self._nbytes)
        buffer = self._free.get()
        if buffer is None:
            raise PoolClosed
        return buffer

    def give(self, buffer: Bytes) -> None:
        self._free.put(buffer)

    def close(self) -> None:
        self._free.put(None)
