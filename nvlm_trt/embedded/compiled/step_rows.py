"""A step's rows: the sequence and position of each, and which queries are computed together.

Arrays are made once and their addresses written into the step's record. A decoding step, one row per sequence, is
treated specially: it comes some thousand times a second, so what does not change from one to the next is left as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.embedded.compiled.layout import BLOCK, TILE, Layout

__all__ = ["StepRows"]

Ints = NDArray[np.int32]


class StepRows:
    """``step`` is the ``STEP`` record that is filled."""

    def __init__(self, step: Any, layout: Layout, max_rows: int, max_batch_size: int) -> None:
        self._step, self._tile_rows, self._group = step, layout.tile_rows, layout.group
        per_row = -(-layout.group // layout.tile_rows)
        most_tiles = max_rows * per_row
        self._positions, self._blocks = np.zeros(max_rows, np.int32), np.zeros(max_rows, np.int32)
        self._ends = np.zeros(max_batch_size, np.int32)
        self._tables = np.zeros(max_batch_size * -(-layout.max_seq_len // BLOCK), np.int32)
        self._tiles, self._last_tiles = np.zeros(most_tiles, TILE), np.zeros(max_batch_size * per_row, TILE)
        for name in ("positions", "blocks", "ends", "tables", "tiles", "last_tiles"):
            step[name] = getattr(self, f"_{name}").ctypes.data
        self._decoding = 0  # of how many sequences the last step was a decoding one
        self._numbers = np.arange(max_batch_size)

    def decode(self, tables: Ints, lengths: Ints) -> None:
        """One row for each of n sequences: ``tables`` [n, width], ``lengths`` [n]."""
        count, width = tables.shape
        numbers = self._numbers[:count]
        if count != self._decoding:
            each = self._cut(0, self._group)
            tiles = np.tile(each, count)
            tiles["source"] = tiles["target"] = np.repeat(numbers, len(each))
            self._fill(count, numbers, tiles, tiles)
            self._decoding = count
        self._positions[:count] = lengths
        self._blocks[:count] = tables[numbers, lengths // BLOCK]
        self._tables[: tables.size] = tables.ravel()
        tiles = self._last_tiles[: self._step["num_last_tiles"]]
        sequences = tiles["target"]
        tiles["start"], tiles["table"] = lengths[sequences], sequences * width
        self._tiles[: len(tiles)] = tiles

    def prefill(self, table: Ints, start: int, count: int) -> None:
        """``count`` rows from position ``start`` on of the sequence in ``table`` [width]."""
        self._decoding = 0
        positions = np.arange(start, start + count)
        self._positions[:count] = positions
        self._blocks[:count] = table[positions // BLOCK]
        self._tables[: len(table)] = table
        last = count - 1
        tiles, last_tiles = self._cut(0, count * self._group), self._cut(last * self._group, count * self._group)
        tiles["start"] = last_tiles["start"] = start
        last_tiles["target"] = -last  # the last row's result is the only one
        self._fill(count, last, tiles, last_tiles)

    def _fill(self, rows: int, ends: Any, tiles: NDArray[Any], last_tiles: NDArray[Any]) -> None:
        step, num_ends = self._step, np.size(ends)
        self._ends[:num_ends] = ends
        self._tiles[: len(tiles)], self._last_tiles[: len(last_tiles)] = tiles, last_tiles
        step["rows"], step["num_ends"] = rows, num_ends
        step["num_tiles"], step["num_last_tiles"] = len(tiles), len(last_tiles)

    def _cut(self, begin: int, end: int) -> NDArray[Any]:
        """A sequence's queries ``begin`` to ``end``, in tiles."""
        queries = np.arange(begin, end, self._tile_rows)
        tiles = np.zeros(len(queries), TILE)
        tiles["query"] = queries
        tiles["count"] = np.minimum(self._tile_rows, end - queries)
        return tiles
