"""Which rows a step has: of which sequence each is, at what position, and which queries are computed together.

Arrays are made once and their addresses written into the step's record. A decoding step, one row for each sequence, is
told apart: it comes some thousand times a second, and what does not change from one to the next is left as it is.
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
        if count != self._decoding:
            self._fill(lengths, np.ones(count, np.int64), width)
            self._decoding = count
        numbers = self._numbers[:count]
        self._positions[:count] = lengths
        self._blocks[:count] = tables[numbers, lengths // BLOCK]
        self._tables[: count * width] = tables.ravel()
        tiles = self._last_tiles[: self._step["num_last_tiles"]]
        sequences = tiles["target"]
        tiles["start"], tiles["table"] = lengths[sequences], sequences * width
        self._tiles[: len(tiles)] = tiles

    def prefill(self, tables: Ints, starts: Ints, counts: NDArray[np.int64]) -> None:
        """``counts[i]`` rows of the i-th sequence from position ``starts[i]`` on, one sequence after another."""
        self._decoding = 0
        self._fill(starts, counts, tables.shape[1])
        of = np.repeat(np.arange(len(counts)), counts)
        offsets = np.arange(len(of)) - (np.cumsum(counts) - counts)[of]
        positions = starts[of] + offsets
        self._positions[: len(of)] = positions
        self._blocks[: len(of)] = tables[of, positions // BLOCK]
        self._tables[: tables.size] = tables.ravel()

    def _fill(self, starts: Ints, counts: NDArray[np.int64], width: int) -> None:
        step, firsts = self._step, np.cumsum(counts) - counts
        ends = firsts + counts - 1
        self._ends[: len(counts)] = ends
        tiles = self._cut(starts, np.zeros_like(counts), counts, width)
        tiles["source"] = tiles["target"] = firsts[tiles["table"] // width]
        last_tiles = self._cut(starts, counts - 1, counts, width)
        sequences = last_tiles["table"] // width
        last_tiles["source"] = firsts[sequences]
        last_tiles["target"] = sequences - (counts - 1)[sequences]  # the last row's result is the sequence's only one
        self._tiles[: len(tiles)], self._last_tiles[: len(last_tiles)] = tiles, last_tiles
        step["rows"], step["num_ends"] = counts.sum(), len(counts)
        step["num_tiles"], step["num_last_tiles"] = len(tiles), len(last_tiles)

    def _cut(self, starts: Ints, begins: NDArray[np.int64], counts: NDArray[np.int64], width: int) -> NDArray[Any]:
        """The queries of rows ``begins`` to ``counts`` of each sequence, in tiles."""
        queries = (counts - begins) * self._group
        tiles_of = -(-queries // self._tile_rows)
        of = np.repeat(np.arange(len(counts)), tiles_of)
        index = np.arange(len(of)) - (np.cumsum(tiles_of) - tiles_of)[of]
        tiles = np.zeros(len(of), TILE)
        tiles["query"] = begins[of] * self._group + index * self._tile_rows
        tiles["count"] = np.minimum(self._tile_rows, queries[of] - index * self._tile_rows)
        tiles["start"], tiles["table"] = starts[of], of * width
        return tiles
