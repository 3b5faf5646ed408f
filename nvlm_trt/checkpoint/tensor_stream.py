"""Reads a checkpoint's tensors once, in a given order, in blocks of rows, ahead of their user.

A thread of its own fills buffers from a fixed set and queues them; the user gives each back when done with it. So disk
and arithmetic overlap, and memory is the set of buffers however large the checkpoint is. A user may hold back a whole
group of tensors, because the group's scale must be known before its first value can be cast; the set is as large as the
largest group, and a little more to read ahead into.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint, Place, TensorInfo
from nvlm_trt.checkpoint.buffers import BufferPool, PoolClosed
from nvlm_trt.checkpoint.direct_io import PAGE_BYTES, DirectReader
from nvlm_trt.checkpoint.tensor_spec import DTYPES
from nvlm_trt.checkpoint.untrusted import shown
from nvlm_trt.errors import CheckpointError

__all__ = ["Block", "row_shape", "stream_tensors"]

# Large enough for a disk's full rate and for a rank's share of it, small enough that a group is many.
BLOCK_BYTES = 16 << 20
_READ_AHEAD_BLOCKS = 8
# Whole pages also in the output, where rows are of even width.
_ROWS_MULTIPLE = 64


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of a tensor, as two axes: ``values`` is [rows, width], valid until ``release`` is called."""

    name: str
    first_row: int
    values: NDArray[Any]
    last: bool
    release: Callable[[], None]


def row_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """A tensor's rows and their width, with all axes but the first taken as one."""
    rows = shape[0] if shape else 1
    return rows, int(np.prod(shape[1:], dtype=np.int64))


@contextmanager
def stream_tensors(
    checkpoint: Checkpoint, names: Sequence[str], held: Sequence[Sequence[str]] = ()
) -> Iterator[Iterator[Block]]:
    """The tensors block by block, in order. Of ``held``, runs of ``names``, the user may keep all blocks of one until
    its last has come; every other block is to be released before the next is asked for.

    Raises, from the iterator, ``CheckpointError`` E-CKPT-SHARD where a file cannot be read any more.
    """
    largest = max((sum(_num_blocks(checkpoint.info(name)) for name in group) for group in held), default=1)
    row_bytes = max((_row_bytes(checkpoint.info(name)) for name in names), default=0)
    pool = BufferPool(largest + _READ_AHEAD_BLOCKS, max(BLOCK_BYTES, row_bytes) + 2 * PAGE_BYTES)
    blocks: queue.SimpleQueue[Block | BaseException | None] = queue.SimpleQueue()
    reader = _Reader(checkpoint, names, pool, blocks)
    thread = threading.Thread(target=reader.run, name="read-ahead", daemon=True)
    thread.start()
    try:
        yield _queued(blocks)
    finally:
        reader.stopped = True
        pool.close()
        thread.join()


def _queued(blocks: queue.SimpleQueue[Block | BaseException | None]) -> Iterator[Block]:
    while (item := blocks.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item


class _Reader:
    def __init__(
        self,
        checkpoint: Checkpoint,
        names: Sequence[str],
        pool: BufferPool,
        blocks: queue.SimpleQueue[Block | BaseException | None],
    ) -> None:
        self._checkpoint, self._names, self._pool, self._blocks = checkpoint, names, pool, blocks
        self._files: dict[Path, DirectReader] = {}
        self.stopped = False

    def run(self) -> None:
        try:
            for name in self._names:
                self._read(self._checkpoint.info(name))
            self._blocks.put(None)
        except PoolClosed:
            pass
        except BaseException as error:  # raised again where the blocks are used
            self._blocks.put(error)
        finally:
            for file in self._files.values():
                file.close()

    def _read(self, info: TensorInfo) -> None:
        rows, width = row_shape(info.shape)
        whole: NDArray[Any] = np.empty(0)
        if not info.place:
            whole = self._checkpoint.read(info.name).reshape(rows, width)
        step = _block_rows(info)
        for first in range(0, rows, step):
            if self.stopped:
                raise PoolClosed
            buffer = self._pool.take()
            shape = (min(step, rows - first), width)
            if info.place:
                values = self._from_file(info, info.place, first, shape, buffer)
            else:
                values = _copied(whole[first : first + step], buffer)
            release = functools.partial(self._pool.give, buffer)
            self._blocks.put(Block(info.name, first, values, first + step >= rows, release))
        if not info.place:
            del whole
            self._checkpoint.drop_pages(info.name)

    def _from_file(
        self, info: TensorInfo, place: Place, first: int, shape: tuple[int, int], buffer: NDArray[np.uint8]
    ) -> NDArray[Any]:
        row_bytes = _row_bytes(info)
        try:
            if place.file not in self._files:
                # Shards come one after the other; there may be more of them than files may be open.
                for file in self._files.values():
                    file.close()
                self._files = {place.file: DirectReader(place.file)}
            raw = self._files[place.file].read(place.offset + first * row_bytes, shape[0] * row_bytes, buffer)
        except (OSError, EOFError):
            raise CheckpointError(
                "E-CKPT-SHARD",
                f"{shown(place.file.name)} cannot be read to its end any more.",
                "Check the disk it lies on, then run again.",
            ) from None
        return raw.view(DTYPES[info.dtype]).reshape(shape)


def _row_bytes(info: TensorInfo) -> int:
    return row_shape(info.shape)[1] * DTYPES[info.dtype].itemsize


def _block_rows(info: TensorInfo) -> int:
    rows = max(1, BLOCK_BYTES // max(1, _row_bytes(info)))
    return rows - rows % _ROWS_MULTIPLE if rows >= _ROWS_MULTIPLE else rows


def _num_blocks(info: TensorInfo) -> int:
    return -(-row_shape(info.shape)[0] // _block_rows(info))


def _copied(values: NDArray[Any], buffer: NDArray[np.uint8]) -> NDArray[Any]:
    # As unsigned integers: copies of numpy's own types run without the interpreter's lock.
    carrier = np.dtype(f"u{values.itemsize}")
    copy = buffer[: values.nbytes].view(carrier).reshape(values.shape)
    np.copyto(copy, values.view(carrier))
    return copy.view(values.dtype)
