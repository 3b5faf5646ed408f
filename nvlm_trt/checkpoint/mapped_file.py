"""A file that is mapped on first use, and whose pages can be released when they are no longer needed.

Pages of a mapped file count as this process's memory until they are released. So code that streams through a large file
says when it is done with a part; the system keeps the bytes in its own cache as long as it likes.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.untrusted import shown
from nvlm_trt.errors import CheckpointError

__all__ = ["MappedFile", "expect_random_reads"]


def expect_random_reads(descriptor: int) -> None:
    """Keep the system from reading ahead in a file of which only a few bytes here and there are needed."""
    if hasattr(os, "posix_fadvise"):  # not on macOS
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)


class MappedFile:
    """A file that had ``size_bytes`` when its header was checked.

    Raises ``CheckpointError`` E-CKPT-SHARD where it cannot be opened any more or has another size.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self._size_bytes = size_bytes
        self._map: mmap.mmap | None = None

    def array(
        self,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        offset: int,
        strides_bytes: tuple[int, ...] | None = None,
    ) -> NDArray[Any]:
        """A read-only view that keeps the mapping alive by itself; without strides in C order."""
        if 0 in shape:
            empty = np.empty(shape, dtype)
            empty.flags.writeable = False
            return empty
        return np.ndarray(shape, dtype, self._mapped(), offset, strides_bytes)

    def drop_pages(self, offset: int, nbytes: int) -> None:
        """Release the pages that hold any of these bytes; they are read from disk again when needed."""
        if self._map is None or nbytes == 0:
            return
        begin = offset - offset % mmap.PAGESIZE
        self._map.madvise(mmap.MADV_DONTNEED, begin, offset + nbytes - begin)

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            try:
                with self._path.open("rb") as file:
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError):  # ValueError: the file has become empty
                raise CheckpointError(
                    "E-CKPT-SHARD", f"{shown(self._path.name)} cannot be opened.", "Check its permissions."
                ) from None
            if len(mapped) != self._size_bytes:
                mapped.close()
                raise CheckpointError(
                    "E-CKPT-SHARD", f"{shown(self._path.name)} has changed its size since it was opened.", "Run again."
                )
            self._map = mapped
        return self._map
