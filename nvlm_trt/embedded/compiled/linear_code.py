"""The decoder's linears and norms, as tasks: one or several panels of a matrix, for up to ``rows_at_once`` rows.

A task computes a panel's sums into a buffer of its thread and passes them on, vector by vector, to the next operation:
scale, bias, residual, SiLU, rounding. Panels are padded with zeros, and so are rows as far as they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nvlm_trt.embedded.compiled.layout import LINEAR, Layout, offset
from nvlm_trt.embedded.compiled.number_format import Float8, NumberFormat
from nvlm_trt.embedded.compiled.product_code import ProductWriter
from nvlm_trt.embedded.compiled.vector_writer import FLOAT, VectorWriter

__all__ = ["LinearWriter", "Tasks"]

_FLOAT8 = Float8()
_TASK_BYTES = 32 << 10  # of weights, at least, where rows are few: a microsecond or two


@dataclass(frozen=True, slots=True)
class Tasks:
    """Of ``rows``, up to ``most_rows``, with ``together`` of ``panels`` one after another."""

    w: VectorWriter
    rows: Any
    most_rows: int
    panels: int
    together: Any

    @property
    def count(self) -> Any:
        return self.w.b.mul(self.w.pieces(self.rows, self.most_rows), self._groups)

    @contextmanager
    def panels_of(self, task: Any) -> Iterator[tuple[Any, Any, Any]]:
        """First row, number of rows, panel; for each panel of a task. Neighbouring tasks share rows, not panels."""
        w, b = self.w, self.w.b
        groups, most = self._groups, w.size(self.most_rows)
        first_row = b.mul(b.udiv(task, groups), most)
        first = b.mul(b.urem(task, groups), self.together)
        with w.loop(w.smaller(self.together, b.sub(w.size(self.panels), first))) as panel:
            yield first_row, w.smaller(b.sub(self.rows, first_row), most), b.add(first, panel.index)

    @property
    def _groups(self) -> Any:
        b, one = self.w.b, self.w.size(1)
        return b.udiv(b.add(self.w.size(self.panels), b.sub(self.together, one)), self.together)


class LinearWriter:
    """Linears are addresses of ``LINEAR`` records; ``plain`` is the format of the matrices that are not e4m3."""

    def __init__(self, w: VectorWriter, layout: Layout, products: ProductWriter, plain: NumberFormat) -> None:
        self._w, self._layout, self._products, self._plain = w, layout, products, plain

    def tasks(self, rows: Any, depth: int, width: int) -> Tasks:
        """The tasks of a matrix of ``depth`` by ``width``."""
        w = self._w
        panels = self._layout.padded(width) // w.columns
        together = max(1, _TASK_BYTES // (depth * w.columns))
        few = w.b.icmp_signed("<=", rows, w.size(w.tile_rows))
        together = w.b.select(few, w.size(together), w.size(1))
        return Tasks(w, rows, self._layout.rows_at_once, panels, together)

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
