"""The decoder's linears and norms, as tasks: a panel of a matrix for up to ``rows_at_once`` rows.

A task computes its panel's sums into a buffer of its thread and hands them, vector by vector, to what comes next:
scale, bias, residual, SiLU, rounding. Panels are padded with zeros, and so are rows as far as they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nvlm_trt.embedded.compiled.layout import LINEAR, Layout, offset
from nvlm_trt.embedded.compiled.number_format import Float8, NumberFormat
from nvlm_trt.embedded.compiled.product_code import ProductWriter
from nvlm_trt.embedded.compiled.vector_writer import FLOAT, VectorWriter

__all__ = ["LinearWriter"]

_FLOAT8 = Float8()


class LinearWriter:
    """Linears are addresses of ``LINEAR`` records; ``plain`` is the format of the matrices that are not e4m3."""

    def __init__(self, w: VectorWriter, layout: Layout, products: ProductWriter, plain: NumberFormat) -> None:
        self._w, self._layout, self._products, self._plain = w, layout, products, plain

    def num_tasks(self, rows: Any, width: int) -> Any:
        w = self._w
        return w.b.mul(w.pieces(rows, self._layout.rows_at_once), w.size(self._num_panels(width)))

    def part(self, task: Any, rows: Any, width: int) -> tuple[Any, Any, Any]:
        """A task's first row, how many they are, and its panel. Neighbouring tasks share rows, not panels."""
        b, most = self._w.b, self._w.size(self._layout.rows_at_once)
        panels = self._w.size(self._num_panels(width))
        first = b.mul(b.udiv(task, panels), most)
        return first, self._w.smaller(b.sub(rows, first), most), b.urem(task, panels)

    def sum(self, linear: Any, panel: Any, depth: int, rows: Any, left: Any, sums: Any, piece: Any) -> None:
        w, b, columns = self._w, self._w.b, self._w.columns
        panels = b.inttoptr(w.load(w.at(linear, offset(LINEAR, "panels")), w.size), w.pointer)
        is_fp8 = b.icmp_signed("!=", w.load(w.at(linear, offset(LINEAR, "fp8")), w.size), w.size(0))
        with b.if_else(is_fp8) as branches:
            for branch, of in zip(branches, (_FLOAT8, self._plain), strict=True):
                with branch:
                    at = w.at(panels, (panel, depth * columns * of.num_bytes))
                    self._products.product(of, rows, left, at, depth, sums, piece)

    def each(
        self, rows: Any, panel: Any, values: Mapping[str, tuple[Any, Any]], then: Callable[[Any, Any, list[Any]], None]
    ) -> None:
        """``then(row, column bytes, vectors)`` for all sums, restored; ``values`` are (sums, linear) by name."""
        w, b = self._w, self._w.b
        scales = [w.load_splat(w.at(linear, offset(LINEAR, "restore"))) for _, linear in values.values()]
        with w.loop(rows) as row:
            for half in range(2):
                begin = half * w.lanes * FLOAT
                vectors = [
                    b.fmul(w.load_floats(w.at(sums, (row.index, w.columns * FLOAT), begin)), scale)
                    for (sums, _), scale in zip(values.values(), scales, strict=True)
                ]
                then(row.index, b.add(b.mul(panel, w.size(w.columns * FLOAT)), w.size(begin)), vectors)

    def write_norm(self) -> None:
        """``norm(row, weight, quantise, given)``: root mean square, times a weight in float32, rounded."""
        w, config = self._w, self._layout.config
        vectors = self._layout.padded(config.hidden_size) // w.lanes
        with w.function("norm", "aaaa", exported=False) as (row, weight, quantise, given):
            b = w.b
            with w.loop(vectors, [w.number(0)]) as at:
                values = w.load_floats(w.at(row, (at.index, w.lanes * FLOAT)))
                at.carried[0] = w.add_product(at.carried[0], values, values)
            mean = b.fdiv(w.sum(at.carried[0]), w.float(config.hidden_size))
            deviation = w.intrinsic("sqrt", b.fadd(mean, w.float(config.norm_eps)))
            factor = w.splat(b.fdiv(w.float(1), deviation), w.lanes)
            with w.loop(vectors) as at:
                place = (at.index, w.lanes * FLOAT)
                values = b.fmul(b.fmul(w.load_floats(w.at(row, place)), factor), w.load_floats(w.at(weight, place)))
                w.store(w.quantised(values, quantise), w.at(given, place))

    def _num_panels(self, width: int) -> int:
        return self._layout.padded(width) // self._w.columns
