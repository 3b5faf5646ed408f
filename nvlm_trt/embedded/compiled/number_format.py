"""Widens stored numbers to float32 in registers, so that a panel of weights is read as it lies in the checkpoint.

e4m3 and float16 have float32's parts with fewer bits: sign, exponent, fraction. Their bits moved to float16's or
float32's places are the number times a power of two, subnormals included, and that power goes into the scale that
follows the sum anyway.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from nvlm_trt.embedded.compiled.vector_writer import VectorWriter

__all__ = ["Bfloat16", "Float8", "Float16", "Float32", "NumberFormat"]


class NumberFormat(ABC):
    """The number is ``factor`` times what ``widen`` gives. ``name`` is part of the names of functions."""

    name: str
    num_bytes: int
    factor = 1.0

    @abstractmethod
    def widen(self, w: VectorWriter, address: Any) -> list[Any]:
        """Two vectors of float32 from ``w.columns`` numbers."""


class Float32(NumberFormat):
    name, num_bytes = "float32", 4

    def widen(self, w: VectorWriter, address: Any) -> list[Any]:
        return [w.load_floats(w.at(address, half * w.lanes * self.num_bytes)) for half in range(2)]


class Bfloat16(NumberFormat):
    """The upper half of float32."""

    name, num_bytes = "bfloat16", 2

    def widen(self, w: VectorWriter, address: Any) -> list[Any]:
        words = w.vector(w.word, w.columns)
        bits = w.b.zext(w.load(address, w.vector(w.half, w.columns)), words)
        return _halves(w, w.b.bitcast(w.b.shl(bits, w.constants([16] * w.columns)), w.vector(w.float, w.columns)))


class Float16(NumberFormat):
    name, num_bytes = "float16", 2

    def widen(self, w: VectorWriter, address: Any) -> list[Any]:
        if w.converts_float16:
            return _halves(w, _widened(w, w.load(address, w.vector(w.float16, w.columns))))
        bits = w.load(address, w.vector(w.half, w.columns))
        return _halves(w, _moved(w, bits, fraction_bits=10, exponent_bits=5, power=112))


class Float8(NumberFormat):
    """e4m3, four bits of exponent with a bias of 7. NaN is read as 480 and must be refused before."""

    name, num_bytes, factor = "float8", 1, 2.0**8

    def widen(self, w: VectorWriter, address: Any) -> list[Any]:
        stored = w.load(address, w.vector(w.byte, w.columns))
        if not w.converts_float16:
            return _halves(w, _moved(w, stored, fraction_bits=3, exponent_bits=4, power=112))
        # The sign comes along when the byte is extended, into float16's first two bits: the second is taken out.
        halves = w.vector(w.half, w.columns)
        bits = w.b.shl(w.b.sext(stored, halves), _same(w, w.half, 7))
        bits = w.b.and_(bits, _same(w, w.half, 0xBFFF))
        return _halves(w, _widened(w, w.b.bitcast(bits, w.vector(w.float16, w.columns))))


def _same(w: VectorWriter, kind: Any, value: int) -> Any:
    return w.ir.Constant(w.vector(kind, w.columns), [kind(value)] * w.columns)


def _widened(w: VectorWriter, values: Any) -> Any:
    return w.b.fpext(values, w.vector(w.float, w.columns))


def _moved(w: VectorWriter, stored: Any, *, fraction_bits: int, exponent_bits: int, power: int) -> Any:
    """Without an instruction for float16: bits to float32's places, times 2^power."""
    words, shift = w.vector(w.word, w.columns), 23 - fraction_bits
    bits = w.b.shl(w.b.sext(stored, words), _same(w, w.word, shift))
    bits = w.b.and_(bits, _same(w, w.word, 1 << 31 | ((1 << (exponent_bits + fraction_bits)) - 1) << shift))
    return w.b.fmul(w.b.bitcast(bits, w.vector(w.float, w.columns)), w.number(2.0**power, w.columns))


def _halves(w: VectorWriter, values: Any) -> list[Any]:
    return [w.pick(values, values, range(start, start + w.lanes)) for start in (0, w.lanes)]
