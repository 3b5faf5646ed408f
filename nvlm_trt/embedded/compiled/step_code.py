"""One step of the decoder, written for LLVM: what every thread of a team runs, from embedded rows to logits.

    hidden ─► (norm ─► qkv ─► append, attend ─► dense ─► norm ─► fc, gate ─► proj) per layer ─► norm ─► head ─► logits

All rows of a step, whatever sequence they belong to, pass each matrix together, one phase after another. From the last
layer's attention on, only the rows that lead to logits are computed.

The arithmetic is ``graph``'s: ``(e4m3(x / x_scale) @ stored.T) * (x_scale * w_scale)``, everything else in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from nvlm_trt.embedded.compiled.attention_code import AttentionWriter
from nvlm_trt.embedded.compiled.layout import LAYER, LINEAR, STEP, TILE, Layout, offset
from nvlm_trt.embedded.compiled.linear_code import LinearWriter
from nvlm_trt.embedded.compiled.number_format import Float8, Float32, NumberFormat
from nvlm_trt.embedded.compiled.product_code import ProductWriter
from nvlm_trt.embedded.compiled.team_code import TeamWriter
from nvlm_trt.embedded.compiled.vector_writer import FLOAT, VectorWriter

__all__ = ["StepWriter", "num_phases"]

_PHASES_PER_LAYER, _PHASES_AFTER = 9, 2


def num_phases(num_layers: int) -> int:
    return num_layers * _PHASES_PER_LAYER + _PHASES_AFTER


class StepWriter:
    """Writes ``step(record, thread)``; ``record`` is a ``STEP``."""

    def __init__(self, w: VectorWriter, layout: Layout, plain: NumberFormat) -> None:
        self._w, self._layout, self._config = w, layout, layout.config
        self._products = ProductWriter(w, layout.row_bytes)
        self._attention = AttentionWriter(w, layout, self._products)
        self._linears = LinearWriter(w, layout, self._products, plain)
        self._team = TeamWriter(w)
        self._plain = plain

    def write(self) -> None:
        for of in (Float32(), Float8(), self._plain):
            self._products.write_tile(of)
        for of in (Float8(), self._plain):
            self._products.write_product(of)
        self._attention.write_append()
        self._attention.write_attend()
        self._linears.write_norm()
        self._team.write_settle()
        self._write_step()
        self._team.write_call()
        self._team.write_lead()
        self._team.write_work()

    def _write_step(self) -> None:
        w, config = self._w, self._config
        with w.function("step", "ai") as (record, thread):
            self._s = _Fields(w, record, STEP)
            self._scratch = {
                name: w.at(self._s["scratch"], (thread, self._layout.scratch()["size"]), offset)
                for name, offset in self._layout.scratch().items()
            }
            with w.loop(config.num_layers, [self._s["rows"]]) as layer:
                address = w.at(self._s["layers"], (layer.index, LAYER.itemsize))
                last = w.b.icmp_signed("==", layer.index, w.size(config.num_layers - 1))
                layer.carried[0] = self._layer(_Fields(w, address, LAYER), layer.index, last, layer.carried[0])
            ends, first = self._s["num_ends"], config.num_layers * _PHASES_PER_LAYER
            self._norm(first, ends, self._s["head_norm"], None)
            self._head(first + 1, ends)

    def _layer(self, layer: _Fields, index: Any, last: Any, rows: Any) -> Any:
        w, b, s, config = self._w, self._w.b, self._s, self._config
        phases = iter([b.add(b.mul(index, w.size(_PHASES_PER_LAYER)), w.size(n)) for n in range(_PHASES_PER_LAYER)])
        self._norm(next(phases), rows, layer["norm"], layer.at("qkv"))

        def with_bias(row: Any, column: Any, vectors: list[Any]) -> None:
            values = b.fadd(vectors[0], w.load_floats(w.at(layer["bias"], column)))
            w.store(values, w.at(s["wide"], (row, self._layout.row_bytes), column))

        self._linear(next(phases), rows, s["given"], config.hidden_size, config.qkv_size, [layer.at("qkv")], with_bias)
        with self._phase(next(phases), rows) as row:
            position, block = (w.load_size(w.at(s[name], (row, 4))) for name in ("positions", "blocks"))
            wide = w.at(s["wide"], (row, self._layout.row_bytes))
            block_at = w.at(layer["cache"], (block, self._layout.block_bytes))
            w.call("append", wide, position, block_at, s["cosines"], s["sines"], layer.at("cache_scale"))
        self._attend(next(phases), layer, last)
        gathering = next(phases)
        with b.if_then(b.and_(last, b.icmp_signed("!=", rows, s["num_ends"]))):
            self._gather(gathering)
        rows = b.select(last, s["num_ends"], rows)

        def onto_hidden(row: Any, column: Any, vectors: list[Any]) -> None:
            address = w.at(s["hidden"], (row, self._layout.row_bytes), column)
            w.store(b.fadd(w.load_floats(address), vectors[0]), address)

        def through_silu(row: Any, column: Any, vectors: list[Any]) -> None:
            fc, gate = vectors
            one = w.number(1)
            sigmoid = b.fdiv(one, b.fadd(one, w.exp(b.fsub(w.number(0), fc))))
            values = w.quantised(b.fmul(b.fmul(fc, sigmoid), gate), layer.at("proj", "quantise"))
            w.store(values, w.at(s["wide"], (row, self._layout.row_bytes), column))

        hidden, inner = config.hidden_size, config.intermediate_size
        self._linear(next(phases), rows, s["given"], config.q_size, hidden, [layer.at("dense")], onto_hidden)
        self._norm(next(phases), rows, layer["mlp_norm"], layer.at("fc"))
        pair = [layer.at("fc"), layer.at("gate")]
        self._linear(next(phases), rows, s["given"], hidden, inner, pair, through_silu)
        self._linear(next(phases), rows, s["wide"], inner, hidden, [layer.at("proj")], onto_hidden)
        return rows

    def _head(self, phase: Any, rows: Any) -> None:
        w, s, config = self._w, self._s, self._config
        logits_bytes = self._layout.padded(config.vocab_size) * FLOAT

        def out(row: Any, column: Any, vectors: list[Any]) -> None:
            w.store(vectors[0], w.at(s["logits"], (row, logits_bytes), column))

        self._linear(phase, rows, s["given"], config.hidden_size, config.vocab_size, [s.at("head")], out)

    def _linear(
        self, phase: Any, rows: Any, left: Any, depth: int, width: int, linears: list[Any], then: Callable[..., None]
    ) -> None:
        """``then(row, column bytes, vectors)`` gets the restored sums of all ``linears``, which have one input."""
        w, scratch = self._w, self._scratch
        tasks = self._linears.tasks(rows, depth, width)
        with self._phase(phase, tasks.count) as task, tasks.panels_of(task) as (first, count, panel):
            left_at = w.at(left, (first, self._layout.row_bytes))
            values: Mapping[str, tuple[Any, Any]] = {
                name: (scratch[name], linear) for name, linear in zip(("sums", "more_sums"), linears, strict=False)
            }
            for sums, linear in values.values():
                self._linears.sum(linear, panel, depth, count, left_at, sums, scratch["piece"])
            self._linears.each(
                count, panel, values, lambda row, column, vectors: then(w.b.add(first, row), column, vectors)
            )

    def _norm(self, phase: Any, rows: Any, weight: Any, linear: Any) -> None:
        w, s = self._w, self._s
        with self._phase(phase, rows) as row:
            place = (row, self._layout.row_bytes)
            quantise = w.at(linear or s.at("head"), offset(LINEAR, "quantise"))
            w.call("norm", w.at(s["hidden"], place), weight, quantise, w.at(s["given"], place))

    def _attend(self, phase: Any, layer: _Fields, last: Any) -> None:
        w, b, s, heads = self._w, self._w.b, self._s, self._w.size(self._config.num_kv_heads)
        tiles, count = (
            b.select(last, s[name_of_last], s[name])
            for name, name_of_last in (("tiles", "last_tiles"), ("num_tiles", "num_last_tiles"))
        )
        with self._phase(phase, b.mul(count, heads)) as task:
            w.call(
                "attend", w.at(tiles, (b.udiv(task, heads), TILE.itemsize)), b.urem(task, heads), s["wide"],
                layer["cache"], s["tables"], s["cosines"], s["sines"], layer.at("dense", "quantise"), s["given"],
                *(self._scratch[name] for name in ("queries", "scores", "mixed", "weights")),
            )  # fmt: skip

    def _gather(self, phase: Any) -> None:
        """Move the rows that lead to logits to the front; they are in order, so each comes from behind its place."""
        w, s, row_bytes = self._w, self._s, self._layout.row_bytes
        with self._phase(phase, 1), w.loop(s["num_ends"]) as end:
            source = w.at(s["hidden"], (w.load_size(w.at(s["ends"], (end.index, 4))), row_bytes))
            with w.loop(self._layout.padded(self._config.hidden_size) // w.lanes) as at:
                place = (at.index, w.lanes * FLOAT)
                w.store(w.load_floats(w.at(source, place)), w.at(s["hidden"], (end.index, row_bytes), place))

    def _phase(self, phase: Any, count: Any) -> AbstractContextManager[Any]:
        return self._team.phase(self._s["board"], phase, count)


class _Fields:
    """A record at an address: its fields' values, read once where it was made, and their addresses."""

    def __init__(self, w: VectorWriter, address: Any, dtype: Any) -> None:
        self._w, self._address, self._dtype = w, address, dtype
        self._values = {name: self._read(name) for name in dtype.names if dtype[name].kind in "ui"}

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def at(self, name: str, *of_linear: str) -> Any:
        return self._w.at(self._address, offset(self._dtype, name, *of_linear))

    def _read(self, name: str) -> Any:
        value = self._w.load(self.at(name), self._w.size)
        return self._w.b.inttoptr(value, self._w.pointer) if self._dtype[name].kind == "u" else value
