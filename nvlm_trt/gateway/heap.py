"""The heap of a process that reads bodies of many megabytes now and then."""

from __future__ import annotations

import ctypes
from contextlib import suppress

__all__ = ["give_back_large_blocks"]

# malloc.h of the GNU C library.
_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 2**17


def give_back_large_blocks() -> None:
    """Let every freed block of 128 KiB or more go back to the system at once, for the life of this process.

    That is also where the GNU C library begins, but it raises the threshold, up to 32 MiB, with each such block that is
    freed (mallopt(3)): the next body then comes from a heap, which keeps its size. Other C libraries are left as they
    are.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
