"""Attention over blocks: keys and values are written into the pool, and queries read them, all with the products' tile.

In a block keys lie channel by channel, so scores of a panel of positions are a tile's product with no sum across lanes.
Values lie position by position, so mixing them is one too. Up to a tile of queries that share a key head read its
blocks together: the heads of its group, and in a prompt also neighbouring rows. Each has its own sums, positions in
order, and what it may not see weighs 0, so its bits are those it would have alone.
"""

from __future__ import annotations

import math
from typing import Any

from nvlm_trt.embedded.compiled.block_walk import BlockWalk
from nvlm_trt.embedded.compiled.layout import BLOCK, TILE, Layout, offset
from nvlm_trt.embedded.compiled.number_format import Float32
from nvlm_trt.embedded.compiled.product_code import ProductWriter
from nvlm_trt.embedded.compiled.vector_writer import FLOAT, VectorWriter

__all__ = ["AttentionWriter"]

_FLOAT32 = Float32()


class AttentionWriter:
    """Writes ``append`` and ``attend``. Addresses are those of ``STEP`` and ``LAYER``."""

    def __init__(self, w: VectorWriter, layout: Layout, products: ProductWriter) -> None:
        self._w, self._layout, self._products = w, layout, products
        self._config = layout.config
        self._half_lanes = math.gcd(self._config.head_dim // 2, w.lanes)
        self._head_bytes = self._config.head_dim * FLOAT

    def write_append(self) -> None:
        """``append(row, position, block, cosines, sines, scale)``: one row's keys, rotated, and its values; ``block``
        is the address of the layer's part of it. With a scale they are rounded as e4m3 under it would store them.
        """
        w, config, layout = self._w, self._config, self._layout
        heads_bytes = config.num_heads * self._head_bytes
        with w.function("append", "aiaaaa", exported=False) as (row, position, block, cosines, sines, scale):
            b = w.b
            place = b.and_(position, w.size(BLOCK - 1))
            panel, column = b.udiv(place, w.size(w.columns)), b.urem(place, w.size(w.columns))
            with w.loop(config.num_kv_heads) as head:
                keys = w.at(row, heads_bytes, (head.index, self._head_bytes))
                target = w.at(
                    block, (head.index, layout.keys_bytes), (panel, self._head_bytes * w.columns), (column, FLOAT)
                )
                for channel, exact in self._rotated(keys, position, cosines, sines):
                    values = self._kept(exact, scale)
                    for lane in range(self._half_lanes):
                        value = b.extract_element(values, w.word(lane))
                        w.store(value, w.at(target, (channel + lane) * w.columns * FLOAT))
                values_from = w.at(keys, config.num_kv_heads * self._head_bytes)
                target = w.at(
                    block, config.num_kv_heads * layout.keys_bytes, (head.index, layout.values_bytes),
                    (place, w.columns * FLOAT),
                )  # fmt: skip
                for channel in range(0, config.head_dim, self._half_lanes):
                    panel_of, column_of = divmod(channel, w.columns)
                    exact = w.load_floats(w.at(values_from, channel * FLOAT), self._half_lanes)
                    values = self._kept(exact, scale)
                    w.store(values, w.at(target, panel_of * BLOCK * w.columns * FLOAT, column_of * FLOAT))

    def write_attend(self) -> None:
        """``attend(tile, head, ...)``: a tile's queries of one key head; the results, rounded, go to ``given``. The
        other parameters are the addresses named below; the last four are the thread's own buffers.
        """
        w, layout = self._w, self._layout
        group = w.size(layout.group)
        with w.function("attend", "aiaaaaaaaaaaa", exported=False) as (tile, head, *addresses):
            wide, cache, tables, cosines, sines, quantise, given, queries, scores, mixed, weights = addresses
            b = w.b
            query, count, source, target, start, table = (
                w.load_size(w.at(tile, offset(TILE, name)))
                for name in ("query", "count", "source", "target", "start", "table")
            )

            def of(index: Any) -> tuple[Any, Any]:
                """A query's row, counted from the sequence's first, and where its head's channels begin in a row."""
                number = b.add(query, index)
                channels = b.add(b.mul(head, group), b.urem(number, group))
                return b.udiv(number, group), b.mul(channels, w.size(self._head_bytes))

            with w.loop(count) as one:
                row, channels = of(one.index)
                self._take_query(
                    w.at(wide, (b.add(source, row), layout.row_bytes), channels), b.add(start, row), cosines, sines,
                    w.at(queries, (one.index, layout.row_bytes)),
                )  # fmt: skip
            length = b.add(b.add(start, b.udiv(b.sub(b.add(query, count), w.size(1)), group)), w.size(1))
            num_blocks = w.pieces(length, BLOCK)
            table_at = w.at(tables, (table, 4))
            values = w.at(cache, self._config.num_kv_heads * layout.keys_bytes, (head, layout.values_bytes))
            keys = w.at(cache, (head, layout.keys_bytes))
            self._score(BlockWalk(w, layout, table_at, num_blocks, keys, values), count, queries, scores)
            with w.loop(count) as one:
                row, _ = of(one.index)
                sees = b.add(b.add(start, row), w.size(1))
                total = self._weigh(w.at(scores, (one.index, layout.row_bytes)), sees, num_blocks)
                w.store(total, w.at(weights, (one.index, FLOAT)))
            self._mix(BlockWalk(w, layout, table_at, num_blocks, values, values), length, count, scores, mixed)
            with w.loop(count) as one:
                row, channels = of(one.index)
                self._give(
                    w.at(mixed, (one.index, self._mixed_bytes)), w.at(weights, (one.index, FLOAT)), quantise,
                    w.at(given, (b.add(target, row), layout.row_bytes), channels),
                )  # fmt: skip

    @property
    def _mixed_bytes(self) -> int:
        return self._layout.padded(self._config.head_dim) * FLOAT

    def _rotated(self, source: Any, position: Any, cosines: Any, sines: Any) -> list[tuple[int, Any]]:
        """A head's channels after rotation, as (first channel, vector). Pairs are a channel of each half."""
        w, b, lanes, half = self._w, self._w.b, self._half_lanes, self._config.head_dim // 2
        rotated = []
        for channel in range(0, half, lanes):
            cosine, sine = (
                w.load_floats(w.at(table, (position, half * FLOAT), channel * FLOAT), lanes)
                for table in (cosines, sines)
            )
            first, second = (w.load_floats(w.at(source, at * FLOAT), lanes) for at in (channel, channel + half))
            rotated.append((channel, b.fsub(b.fmul(first, cosine), b.fmul(second, sine))))
            rotated.append((channel + half, b.fadd(b.fmul(second, cosine), b.fmul(first, sine))))
        return rotated

    def _kept(self, values: Any, scale: Any) -> Any:
        """The values unchanged, to the last bit, where the scale is 0."""
        w, b, lanes = self._w, self._w.b, values.type.count
        by = w.load_splat(scale, lanes)
        factor = b.select(b.fcmp_ordered("==", by, w.number(0, lanes)), w.number(1, lanes), by)
        return b.fmul(w.quantised(values, scale), factor)

    def _take_query(self, source: Any, position: Any, cosines: Any, sines: Any, target: Any) -> None:
        w, scale = self._w, self._w.number(self._config.head_dim**-0.5, self._half_lanes)
        for channel, values in self._rotated(source, position, cosines, sines):
            w.store(w.b.fmul(values, scale), w.at(target, channel * FLOAT))

    def _score(self, blocks: BlockWalk, count: Any, queries: Any, scores: Any) -> None:
        w, layout = self._w, self._layout
        panel_bytes = self._config.head_dim * w.columns * FLOAT
        with blocks.loop() as (block, keys, ahead):
            scores_at = w.at(scores, (block, BLOCK * FLOAT))
            self._clear(count, scores_at, layout.row_bytes, BLOCK)
            for panel in range(BLOCK // w.columns):
                self._products.tile(
                    _FLOAT32, count, queries, w.at(keys, panel * panel_bytes), self._config.head_dim,
                    w.at(scores_at, panel * w.columns * FLOAT), layout.row_bytes, w.at(ahead, panel * panel_bytes),
                )  # fmt: skip

    def _weigh(self, scores: Any, sees: Any, num_blocks: Any) -> Any:
        """Turn scores of the first ``sees`` positions into weights, the others into 0; returns their sum."""
        w, b = self._w, self._w.b
        vectors = b.mul(num_blocks, w.size(BLOCK // w.lanes))
        never = w.number(-math.inf)

        def seen(index: Any) -> Any:
            """Which lanes of a vector are visible."""
            left = b.trunc(b.sub(sees, b.mul(index, w.size(w.lanes))), w.word)
            return b.icmp_signed("<", w.constants(range(w.lanes)), w.splat(left, w.lanes))

        with w.loop(vectors, [never]) as vector:
            values = w.load_floats(w.at(scores, (vector.index, w.lanes * FLOAT)))
            vector.carried[0] = w.larger(b.select(seen(vector.index), values, never), vector.carried[0])
        highest = w.splat(w.largest(vector.carried[0]), w.lanes)
        with w.loop(vectors, [w.number(0)]) as vector:
            address = w.at(scores, (vector.index, w.lanes * FLOAT))
            weights = w.exp(b.fsub(w.load_floats(address), highest))
            weights = b.select(seen(vector.index), weights, w.number(0))
            w.store(weights, address)
            vector.carried[0] = b.fadd(vector.carried[0], weights)
        return w.sum(vector.carried[0])

    def _mix(self, blocks: BlockWalk, length: Any, count: Any, weights: Any, mixed: Any) -> None:
        w, b, layout = self._w, self._w.b, self._layout
        self._clear(count, mixed, self._mixed_bytes, layout.padded(self._config.head_dim))
        panel_bytes = BLOCK * w.columns * FLOAT
        with blocks.loop() as (block, values, ahead):
            positions = w.smaller(b.sub(length, b.mul(block, w.size(BLOCK))), w.size(BLOCK))
            for panel in range(layout.padded(self._config.head_dim) // w.columns):
                self._products.tile(
                    _FLOAT32, count, w.at(weights, (block, BLOCK * FLOAT)),
                    w.at(values, panel * panel_bytes), positions,
                    w.at(mixed, panel * w.columns * FLOAT), self._mixed_bytes, w.at(ahead, panel * panel_bytes),
                )  # fmt: skip

    def _give(self, mixed: Any, weight: Any, quantise: Any, target: Any) -> None:
        w, b = self._w, self._w.b
        lanes = math.gcd(self._config.head_dim, w.lanes)
        total = w.load_splat(weight, lanes)
        for channel in range(0, self._config.head_dim, lanes):
            values = b.fdiv(w.load_floats(w.at(mixed, channel * FLOAT), lanes), total)
            w.store(w.quantised(values, quantise), w.at(target, channel * FLOAT))

    def _clear(self, rows: Any, address: Any, row_bytes: int, width: int) -> None:
        w = self._w
        with w.loop(rows) as row:
            for column in range(0, width, w.lanes):
                w.store(w.number(0), w.at(address, (row.index, row_bytes), column * FLOAT))
