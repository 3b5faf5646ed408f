"""The picture filter's inner loops, in LLVM's language because Python cannot reach the processor's vector instructions.

Three loops, over bytes at given addresses:

* ``turn`` takes a strip of 16 rows and lays equal columns of its rows side by side, in 16 bits: for each pair of
  neighbouring columns 48 pairs of values, 3 channels of 16 rows.
* ``across`` makes the horizontal pass of a turned strip. Sums of 48 neighbours never meet, so every weight multiplies
  whole vectors. Results go back to rows, two rows at a time, their bytes alternating: pairs again, of rows.
* ``down`` makes the vertical pass over such pairs of rows.

Values are taken in pairs because processors multiply two pairs of 16 bits and add the products in one instruction
(``vpmaddwd``, or ``vpdpwssd``, which also adds the sum so far): eight 32-bit sums of two products each. A weight has up
to 24 bits with its sign, so it is cut into a low and a high half, each with sums of its own:
``sum(w * p) = sum(low * p) + (sum(high * p) << 16)``.

Everything is exact. Additions, the shift and the wrapping of 32 bits commute, so the total is right modulo 2^32
whatever happens on the way. And it is known to lie within 32 bits: the weights' magnitudes add up to less than 1.4
times 2^22, and pixels end at 255.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nvlm_trt.machine_code import CodeWriter, MachineCode, host_features
from nvlm_trt.model.taps import PRECISION_BITS

__all__ = ["COLUMNS_PER_BLOCK", "SLACK_BYTES", "STRIP_ROWS", "TURNED_BYTES_PER_PAIR", "FilterCode"]

STRIP_ROWS = 16
COLUMNS_PER_BLOCK = 32
"""``down`` makes this many bytes of a row at once, and writes whole blocks."""
SLACK_BYTES = 8
"""The loops read and write up to so much beyond what they need, because whole vectors are quicker."""
_ROW_PAIRS = STRIP_ROWS // 2
_CHANNELS = 3
_LANES = 8  # 32-bit sums in a vector of 256 bits, which every x86-64 of the last ten years has
_TURNED_BYTES_PER_ROW_PAIR = 2 * _CHANNELS * 2 * 2  # rows, channels, columns, bytes
TURNED_BYTES_PER_PAIR = _ROW_PAIRS * _TURNED_BYTES_PER_ROW_PAIR
_WEIGHT_BYTES_PER_PAIR = 8


class FilterCode:
    """The three loops, compiled for this processor in a tenth of a second. Other threads run during a call.

    Addresses are integers, and sizes are in bytes unless named otherwise; nothing is checked. With ``pair_instruction``
    False the processor's own multiplication of pairs is not used, as on a processor that has none.

    ``turn(strip, row_bytes, pairs, turned)``; a row of ``strip``, ``turned``, and a pair of rows of ``narrowed`` need
    ``SLACK_BYTES`` behind them. ``across(turned, first, count, weights, weight_bytes, columns, narrowed,
    row_pair_bytes)``. ``down(narrowed, row_pair_bytes, first, count, weights, weight_bytes, rows, blocks, result,
    row_bytes)``. ``first``, ``count`` and ``weights`` are those of ``PairedTaps``.
    """

    def __init__(self, *, pair_instruction: bool = True) -> None:
        writer = _Writer(pair_instruction and host_features().get("avx2", False))
        for write in (_write_turn, _write_across, _write_down):
            write(writer)
        code = MachineCode(writer.module)
        self.turn = code.function("turn", "aiia")
        self.across = code.function("across", "aaaaiiai")
        self.down = code.function("down", "aiaaaiiiai")


class _Writer(CodeWriter):
    """With the few phrases that the three loops are made of."""

    def __init__(self, pair_instruction: bool) -> None:
        super().__init__()
        sums, pairs = self.vector(self.word, _LANES), self.vector(self.half, 2 * _LANES)
        self._instruction = pair_instruction and self.ir.Function(
            self.module, self.ir.FunctionType(sums, [pairs, pairs]), "llvm.x86.avx2.pmadd.wd"
        )

    def _same(self, value: int) -> Any:
        return self.constants([value] * _LANES)

    def load_weights(self, address: Any) -> Any:
        """Two weights of 16 bits, repeated over a vector."""
        return self.b.bitcast(self.splat(self.load(address, self.word), _LANES), self.vector(self.half, 2 * _LANES))

    def add_pairs(self, total: Any, values: Any, weights: Any) -> Any:
        """``total`` plus the products of each pair of neighbours."""
        if self._instruction:
            return self.b.add(total, self.b.call(self._instruction, [values, weights]))
        wide = self.vector(self.word, 2 * _LANES)
        products = self.b.mul(self.b.sext(values, wide), self.b.sext(weights, wide))
        even, odd = (self.pick(products, products, range(start, 2 * _LANES, 2)) for start in (0, 1))
        return self.b.add(total, self.b.add(even, odd))

    def sum_pairs(self, trips: Any, weights: Any, num_vectors: int, value: Callable[[Any, int], Any]) -> list[Any]:
        """Bytes of ``num_vectors`` vectors: the weighted sums over ``trips`` pairs, rounded and cut at 0 and 255."""
        with self.loop(trips, [self._same(0)] * (2 * num_vectors)) as loop:
            low, high = (
                self.load_weights(self.at(weights, (loop.index, _WEIGHT_BYTES_PER_PAIR), half)) for half in (0, 4)
            )
            for number in range(num_vectors):
                pairs = value(loop.index, number)
                for half, place in ((low, 2 * number), (high, 2 * number + 1)):
                    loop.carried[place] = self.add_pairs(loop.carried[place], pairs, half)
        return [self._to_bytes(*loop.carried[place : place + 2]) for place in range(0, 2 * num_vectors, 2)]

    def _to_bytes(self, low: Any, high: Any) -> Any:
        b, zero, most = self.b, self._same(0), self._same(255)
        total = b.add(b.add(low, b.shl(high, self._same(16))), self._same(1 << (PRECISION_BITS - 1)))
        pixel = b.ashr(total, self._same(PRECISION_BITS))
        pixel = b.select(b.icmp_signed("<", pixel, zero), zero, pixel)
        pixel = b.select(b.icmp_signed(">", pixel, most), most, pixel)
        return b.trunc(pixel, self.vector(self.byte, _LANES))


def _write_turn(w: _Writer) -> None:
    with w.function("turn", "aiia") as (strip, row_bytes, pairs, turned):
        two_pixels = w.vector(w.byte, 8)  # and two bytes that are read and dropped
        order = [place for channel in range(_CHANNELS) for place in (channel, channel + 3, channel + 8, channel + 11)]
        rows = [w.at(strip, (row_bytes, row)) for row in range(STRIP_ROWS)]
        with w.loop(pairs) as pair:
            for number in range(_ROW_PAIRS):
                upper, lower = (
                    w.load(w.at(row, (pair.index, 2 * _CHANNELS)), two_pixels)
                    for row in rows[2 * number : 2 * number + 2]
                )
                # A whole vector is stored; the four values too many are overwritten by the next.
                values = w.b.zext(w.pick(upper, lower, [*order, 0, 0, 0, 0]), w.vector(w.half, 16))
                w.store(values, w.at(turned, (pair.index, TURNED_BYTES_PER_PAIR), number * _TURNED_BYTES_PER_ROW_PAIR))


def _write_across(w: _Writer) -> None:
    with w.function("across", "aaaaiiai") as (
        turned,
        first,
        count,
        weights,
        weight_bytes,
        columns,
        narrowed,
        row_pair_bytes,
    ):
        lanes, row_pair_lanes = STRIP_ROWS * _CHANNELS, 2 * _CHANNELS
        with w.loop(columns) as column:
            begin = w.at(turned, (w.load_size(w.at(first, (column.index, 4))), TURNED_BYTES_PER_PAIR))
            results = w.sum_pairs(
                w.load_size(w.at(count, (column.index, 4))),
                w.at(weights, w.b.mul(column.index, weight_bytes)),
                lanes // _LANES,
                lambda pair, number: w.load(
                    w.at(begin, (pair, TURNED_BYTES_PER_PAIR), number * 4 * _LANES), w.vector(w.half, 2 * _LANES)
                ),
            )
            for number in range(_ROW_PAIRS):
                # Six bytes, from one vector or two; two more are stored and overwritten by the next column.
                vector, place = divmod(number * row_pair_lanes, _LANES)
                both = results[vector], results[min(vector + 1, len(results) - 1)]
                six = w.pick(*both, [*range(place, place + row_pair_lanes), 0, 0])
                w.store(six, w.at(narrowed, (column.index, row_pair_lanes), (row_pair_bytes, number)))


def _write_down(w: _Writer) -> None:
    with (
        w.function("down", "aiaaaiiiai") as (
            narrowed,
            row_pair_bytes,
            first,
            count,
            weights,
            weight_bytes,
            rows,
            blocks,
            result,
            row_bytes,
        ),
        w.loop(rows) as row,
    ):
        begin = w.at(narrowed, w.b.mul(w.load_size(w.at(first, (row.index, 4))), row_pair_bytes))
        trips = w.load_size(w.at(count, (row.index, 4)))
        row_weights = w.at(weights, w.b.mul(row.index, weight_bytes))
        to = w.at(result, w.b.mul(row.index, row_bytes))
        with w.loop(blocks) as block:
            column = w.at(begin, (block.index, 2 * COLUMNS_PER_BLOCK))

            def value(pair: Any, number: int, column: Any = column) -> Any:
                pairs = w.load(
                    w.at(column, w.b.mul(pair, row_pair_bytes), number * 2 * _LANES), w.vector(w.byte, 2 * _LANES)
                )
                return w.b.zext(pairs, w.vector(w.half, 2 * _LANES))

            results = w.sum_pairs(trips, row_weights, COLUMNS_PER_BLOCK // _LANES, value)
            for number, pixels in enumerate(results):
                w.store(pixels, w.at(to, (block.index, COLUMNS_PER_BLOCK), number * _LANES))
