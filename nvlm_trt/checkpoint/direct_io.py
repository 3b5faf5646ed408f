"""Reads and writes large files past the page cache.

A conversion reads every byte once and writes every byte once. Through the page cache each of them is copied, kept, and
displaces something more useful; on a machine with few cores that costs more than the arithmetic in between (measured:
1.5 to 2 CPU seconds per GB read cold through the cache, 0.03 past it). Direct transfers need offsets, lengths and
memory in whole pages. So a reader fetches whole pages around what is asked for. A writer sends whole pages directly and
the ragged ends, less than a page each, through the cache: the two never touch the same page, so pieces can be written
in any order.

Where a file system does not offer direct transfers everything goes through the cache, and what was read is released.
"""

from __future__ import annotations

import errno
import mmap
import os
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PAGE_BYTES", "DirectReader", "DirectWriter", "aligned_buffer", "staging_buffer"]

# The largest unit that direct transfers are known to want.
PAGE_BYTES = 4096
_STAGING_BYTES = 4 << 20

Bytes = NDArray[np.uint8]


def aligned_buffer(nbytes: int) -> Bytes:
    """Private memory that begins on a page; it costs nothing until it is touched."""
    region = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # A tenth of the page faults.
    region.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(region, np.uint8)


def staging_buffer() -> Bytes:
    """What a writer copies through. Writers of one thread may share it."""
    return aligned_buffer(_STAGING_BYTES + PAGE_BYTES)


class DirectReader:
    """One file, open for reading. Raises ``OSError`` like the system, ``EOFError`` where the file ends too early."""

    def __init__(self, path: Path) -> None:
        self._path = path
        direct = _open_direct(path, "rb")
        self._direct = direct is not None
        self._file = direct or FileIO(path)

    def read(self, offset: int, nbytes: int, buffer: Bytes) -> Bytes:
        """The bytes from ``offset`` as a view into ``buffer``: page-aligned, two pages larger than ``nbytes``."""
        first = offset - offset % PAGE_BYTES
        wanted = offset + nbytes - first
        pages = buffer.data[: _round_up(wanted)]
        done = 0
        while done < wanted:
            try:
                count = os.preadv(self._file.fileno(), [pages[done:]], first + done)
            except OSError as error:
                if not self._direct or error.errno != errno.EINVAL:
                    raise
                # Opened directly, yet refused: some network and overlay file systems.
                self._file.close()
                self._file, self._direct = FileIO(self._path), False
                continue
            reached = done + count
            whole_pages = reached - reached % PAGE_BYTES
            if reached < wanted and whole_pages == done:
                raise EOFError
            done = reached if reached >= wanted else whole_pages
        if not self._direct:
            os.posix_fadvise(self._file.fileno(), first, wanted, os.POSIX_FADV_DONTNEED)
        return buffer[offset - first : offset - first + nbytes]

    def close(self) -> None:
        self._file.close()


class DirectWriter:
    """One new file of a known size, filled in any order; not for several threads at once.

    Its space is reserved on opening, so a disk that is too small is reported before the work, not after. Raises
    ``OSError`` like the system.
    """

    def __init__(self, path: Path, nbytes: int, staging: Bytes | None = None) -> None:
        self._cached = FileIO(path, "wb")
        try:
            if nbytes:
                os.posix_fallocate(self._cached.fileno(), 0, nbytes)
            self._direct = _open_direct(path, "r+b")
        except BaseException:
            self._cached.close()
            raise
        self._staging = staging_buffer() if staging is None else staging

    def write(self, offset: int, values: NDArray[Any]) -> None:
        """Put ``values`` at ``offset`` bytes in C order; any strides, at least one axis."""
        row_bytes = max(1, values[:1].nbytes)
        if row_bytes > _STAGING_BYTES:
            for row in values:
                self.write(offset, row if row.ndim else row[None])
                offset += row.nbytes
            return
        rows = _STAGING_BYTES // row_bytes
        for start in range(0, len(values), rows):
            self._write_staged(offset + start * row_bytes, values[start : start + rows])

    def sync(self) -> None:
        """Everything is on disk when this returns."""
        os.fsync(self._cached.fileno())

    def close(self) -> None:
        """May be called again."""
        self._cached.close()
        if self._direct is not None:
            self._direct.close()

    def _write_staged(self, offset: int, values: NDArray[Any]) -> None:
        """Copy behind as many bytes as ``offset`` is into its page, so that pages of file and memory coincide."""
        phase, end = offset % PAGE_BYTES, offset + values.nbytes
        # As unsigned integers: copies of numpy's own types are faster, and run without the interpreter's lock.
        carrier = np.dtype(f"u{values.dtype.itemsize}")
        np.copyto(
            self._staging[phase : phase + values.nbytes].view(carrier).reshape(values.shape), values.view(carrier)
        )
        first_page, last_page = _round_up(offset), end - end % PAGE_BYTES
        if self._direct is not None and first_page < last_page:
            try:
                self._write_part(self._direct, offset - phase, first_page, last_page)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._direct.close()
                self._direct = None
            else:
                self._write_part(self._cached, offset - phase, offset, first_page)
                self._write_part(self._cached, offset - phase, last_page, end)
                return
        self._write_part(self._cached, offset - phase, offset, end)

    def _write_part(self, file: FileIO, staged_from: int, begin: int, end: int) -> None:
        left = self._staging.data[begin - staged_from : end - staged_from]
        while left:
            count = os.pwrite(file.fileno(), left, begin)
            left, begin = left[count:], begin + count


def _open_direct(path: Path, mode: str) -> FileIO | None:
    try:
        return FileIO(path, mode, opener=lambda name, flags: os.open(name, flags | os.O_DIRECT | os.O_CLOEXEC))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None


def _round_up(nbytes: int) -> int:
    return nbytes + -nbytes % PAGE_BYTES
