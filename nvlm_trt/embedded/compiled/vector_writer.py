"""The code writer with this processor's vectors of floats, and the functions of them that a decoder needs.

All arithmetic is lane by lane in an order that is written here, so a number's bits depend on its operands alone.
Products are added by ``fmuladd``: one rounding where the processor can, everywhere or nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nvlm_trt.machine_code import CodeWriter

__all__ = ["FLOAT", "LINE", "VectorWriter"]

FLOAT = 4  # bytes
LINE = 64  # bytes of a cache line
_EXP_TERMS = 8  # of Taylor's series at |r| <= log(2) / 2: the ninth is below 6e-9, a tenth of float32's last bit
_LN2_HIGH = 0.693359375  # 9 bits, so that its product with any exponent is exact


class VectorWriter(CodeWriter):
    """``lanes`` floats make a vector; matrices are cut into ``columns``, two vectors."""

    def __init__(self, features: Mapping[str, bool]) -> None:
        super().__init__()
        wide, arm = features.get("avx512f", False), features.get("neon", False)
        self.lanes = 16 if wide else 8 if features.get("avx", False) else 4
        self.columns = 2 * self.lanes
        self.tile_rows = 12 if wide or arm else 6  # twice as many sums fit the registers, beside operands
        self.is_x86 = "sse2" in features
        self.converts_float16 = features.get("f16c", False) or arm
        self.floats = self.vector(self.float, self.lanes)

    def number(self, value: float, lanes: int = 0) -> Any:
        """A constant vector."""
        kind = self.vector(self.float, lanes or self.lanes)
        return self.ir.Constant(kind, [value] * kind.count)

    def load_floats(self, address: Any, lanes: int = 0) -> Any:
        return self.load(address, self.vector(self.float, lanes or self.lanes))

    def load_splat(self, address: Any, lanes: int = 0) -> Any:
        """One float in every lane."""
        return self.splat(self.load(address, self.float), lanes or self.lanes)

    def add_product(self, total: Any, one: Any, other: Any) -> Any:
        return self.intrinsic("fmuladd", one, other, total)

    def sum(self, values: Any) -> Any:
        """The sum of all lanes, by halves."""
        return self._fold(values, self.b.fadd)

    def largest(self, values: Any) -> Any:
        return self._fold(values, self.larger)

    def larger(self, one: Any, other: Any) -> Any:
        return self.b.select(self.b.fcmp_ordered(">", one, other), one, other)

    def _fold(self, values: Any, combine: Any) -> Any:
        lanes = values.type.count
        while lanes > 1:
            lanes //= 2
            low, high = (self.pick(values, values, range(start, start + lanes)) for start in (0, lanes))
            values = combine(low, high)
        return self.b.extract_element(values, self.word(0))

    def exp(self, values: Any) -> Any:
        """The exponential of numbers clamped to -87 to 88, within 2 units of the last place."""
        b = self.b
        values = b.select(b.fcmp_ordered(">", values, self.number(88)), self.number(88), values)
        values = self.larger(values, self.number(-87))
        count = self.intrinsic("rint", b.fmul(values, self.number(math.log2(math.e))))
        rest = self.add_product(values, count, self.number(-_LN2_HIGH))
        rest = self.add_product(rest, count, self.number(_LN2_HIGH - math.log(2)))
        result = self.number(1 / math.factorial(_EXP_TERMS - 1))
        for power in reversed(range(_EXP_TERMS - 1)):
            result = self.add_product(self.number(1 / math.factorial(power)), result, rest)
        words = self.vector(self.word, self.lanes)
        exponent = b.add(b.fptosi(count, words), self.constants([127] * self.lanes))
        return b.fmul(result, b.bitcast(b.shl(exponent, self.constants([23] * self.lanes)), self.floats))

    def quantised(self, values: Any, divisor: Any) -> Any:
        """e4m3 of ``values`` over the float at ``divisor``; where that is 0, the values themselves."""
        by = self.load_splat(divisor, values.type.count)
        keeps = self.b.fcmp_ordered("==", by, self.number(0, values.type.count))
        return self.b.select(keeps, values, self.e4m3(self.b.fdiv(values, by)))

    def e4m3(self, values: Any) -> Any:
        """The nearest e4m3 number, ties to even, saturating at 448: the arithmetic that ``graph`` explains."""
        b, lanes = self.b, values.type.count
        values = b.select(b.fcmp_ordered(">", values, self.number(448, lanes)), self.number(448, lanes), values)
        values = b.select(b.fcmp_ordered("<", values, self.number(-448, lanes)), self.number(-448, lanes), values)
        large = b.fmul(self.intrinsic("fabs", values), self.number(2**20 - 1, lanes))
        large = self.larger(large, self.number(1.5 * 2**14, lanes))
        return b.fsub(large, b.fsub(large, values))
