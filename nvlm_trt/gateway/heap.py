"""The heap of a process that sometimes reads bodies of many megabytes."""

from __future__ import annotations

import ctypes
from contextlib import suppress

__all__ = ["give_back_large_blocks"]

# malloc.h of the GNU C library.
_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 2**17


def give_back_large_blocks() -> None:
    """Return every freed block of 128 KiB or more to the system at once, for the life of this process.

    The GNU C library starts with the same threshold, but raises it, up to 32 MiB, with each such block that is freed
    (mallopt(3)). The next body then comes from a heap, which keeps its size. Other C libraries are left as they are.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
