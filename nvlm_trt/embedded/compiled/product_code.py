"""Products of rows with a panel of weights: most of a decoder's step.

A matrix is stored in panels of as many columns as two vectors have lanes: all its rows' parts of one panel, then the
next. So each lane is one sum, weights multiply whole vectors, one activation is spread over them, and nothing is summed
across lanes.

``tile`` keeps the sums of up to 12 rows in registers (6 where the processor has 16 of those). Up to that many rows of a
batch read narrow weights straight from memory. With more rows, a piece of a panel is widened once into a buffer that
stays in the cache, and all tiles read that.

**A row's bits do not depend on its company.** Each sum is one accumulator that runs through its products in order,
whatever tile it is part of. Where a long sum is interrupted between two pieces of a panel, it waits in memory
unchanged.
"""

from __future__ import annotations

from typing import Any

from nvlm_trt.embedded.compiled.number_format import Float32, NumberFormat
from nvlm_trt.embedded.compiled.vector_writer import FLOAT, LINE, VectorWriter

__all__ = ["PIECE", "ProductWriter"]

PIECE = 128  # of a panel's rows, widened at once: 16 KB with 32 columns; a tile's activations are 6 KB more
_FLOAT32 = Float32()
_FEW_ROWS = 8  # a tile of so few waits for memory, also where numbers are wide
_TOGETHER = 2  # trips of a tile's loop written one after another: its counting takes of what multiplies
_AHEAD_BYTES = 4096  # what is read from memory is asked for so much earlier: a fifth quicker


class ProductWriter:
    """Writes ``tile_*`` and ``product_*`` for the number formats it is asked for, and calls of them. ``row_bytes`` is
    the distance of two rows of activations, the same for all, so it is part of the instructions.
    """

    def __init__(self, w: VectorWriter, row_bytes: int) -> None:
        self._w, self._row_bytes = w, row_bytes

    def tile(self, of: NumberFormat, *arguments: Any) -> None:
        """``rows, left, panel, trips, sums, sums_bytes, ahead``: add 1 to ``tile_rows`` rows of ``left`` times
        ``trips`` rows of a panel to ``sums``, which lie ``sums_bytes`` apart. Meanwhile as much is prefetched from
        ``ahead`` on.
        """
        self._w.call(f"tile_{of.name}", *arguments)

    def product(self, of: NumberFormat, *arguments: Any) -> None:
        """``rows, left, panel, depth, sums, piece``: any number of rows times a panel of ``depth`` rows. ``sums`` has a
        panel's width; ``piece`` is room for ``PIECE`` rows of it.
        """
        self._w.call(f"product_{of.name}", *arguments)

    def write_tile(self, of: NumberFormat) -> None:
        w = self._w
        with w.function(f"tile_{of.name}", "iaaiaia", exported=False) as (rows, *operands):
            done = w.b.function.append_basic_block("done")
            cases = w.b.switch(rows, done)
            for count in range(1, w.tile_rows + 1):
                block = w.b.function.append_basic_block(f"rows{count}")
                cases.add_case(w.size(count), block)
                w.b.position_at_end(block)
                self._write_sums(of, count, *operands)
                w.b.branch(done)
            w.b.position_at_end(done)

    def write_product(self, of: NumberFormat) -> None:
        w = self._w
        panel_row, wide_row = w.columns * of.num_bytes, w.columns * FLOAT
        with w.function(f"product_{of.name}", "iaaiaa", exported=False) as (rows, left, panel, depth, sums, piece):
            b = w.b
            with w.loop(rows) as row:
                for half in range(2):
                    w.store(w.number(0), w.at(sums, (row.index, wide_row), half * w.lanes * FLOAT))
            with b.if_else(b.icmp_signed("<=", rows, w.size(w.tile_rows))) as (few, many):
                with few:
                    self.tile(of, rows, left, panel, depth, sums, wide_row, w.at(panel, _AHEAD_BYTES))
                with many:
                    tiles = w.pieces(rows, w.tile_rows)
                    with w.loop(w.pieces(depth, PIECE)) as at:
                        start = b.mul(at.index, w.size(PIECE))
                        trips = w.smaller(b.sub(depth, start), w.size(PIECE))
                        self._widen(of, w.at(panel, (start, panel_row)), trips, piece)
                        with w.loop(tiles) as tile:
                            first = b.udiv(b.mul(rows, tile.index), tiles)
                            after = b.udiv(b.mul(rows, b.add(tile.index, w.size(1))), tiles)
                            left_at = w.at(left, (first, self._row_bytes), (start, FLOAT))
                            sums_at = w.at(sums, (first, wide_row))
                            self.tile(_FLOAT32, b.sub(after, first), left_at, piece, trips, sums_at, wide_row, piece)

    def _write_sums(
        self, of: NumberFormat, count: int, left: Any, panel: Any, trips: Any, sums: Any, sums_bytes: Any, ahead: Any
    ) -> None:
        w, b, row_bytes = self._w, self._w.b, self._w.columns * of.num_bytes
        places = [w.at(sums, (sums_bytes, row), half * w.lanes * FLOAT) for row in range(count) for half in range(2)]
        fetches = of.num_bytes < FLOAT or count <= _FEW_ROWS
        totals = [w.load_floats(place) for place in places]
        done = w.size(0)
        for together in (_TOGETHER, 1):
            turns = b.udiv(b.sub(trips, done), w.size(together))
            with w.loop(turns, totals) as turn:
                first = b.add(done, b.mul(turn.index, w.size(together)))
                for line in range(0, together * row_bytes if fetches else 0, LINE):
                    w.prefetch(w.at(ahead, (first, row_bytes), line))
                for trip in range(together):
                    columns = of.widen(w, w.at(panel, (first, row_bytes), trip * row_bytes))
                    for row in range(count):
                        factor = w.load_splat(w.at(left, (first, FLOAT), trip * FLOAT + row * self._row_bytes))
                        for half in range(2):
                            place = 2 * row + half
                            turn.carried[place] = w.add_product(turn.carried[place], factor, columns[half])
            totals, done = turn.carried, b.mul(turns, w.size(together))
        for place, total in zip(places, totals, strict=True):
            w.store(total, place)

    def _widen(self, of: NumberFormat, numbers: Any, trips: Any, piece: Any) -> None:
        w = self._w
        with w.loop(trips) as trip:
            row = w.at(numbers, (trip.index, w.columns * of.num_bytes))
            w.prefetch(w.at(row, _AHEAD_BYTES))
            for half, values in enumerate(of.widen(w, row)):
                w.store(values, w.at(piece, (trip.index, w.columns * FLOAT), half * w.lanes * FLOAT))
