"""A loop over a sequence's blocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nvlm_trt.embedded.compiled.layout import Layout
from nvlm_trt.embedded.compiled.vector_writer import VectorWriter

__all__ = ["BlockWalk"]


class BlockWalk:
    """Keys or values of one head: ``table`` [count] at ``base``; behind the last comes the first at
    ``after``.
    """

    def __init__(self, w: VectorWriter, layout: Layout, table: Any, count: Any, base: Any, after: Any) -> None:
        self._w, self._block_bytes = w, layout.block_bytes
        self._table, self._count, self._base, self._after = table, count, base, after

    @contextmanager
    def loop(self) -> Iterator[tuple[Any, Any, Any]]:
        """Each one's number, its address, and the address of what is read after it."""
        w, b = self._w, self._w.b
        with w.loop(self._count) as block:
            following = b.add(block.index, w.size(1))
            is_last = b.icmp_signed("==", following, self._count)
            following = b.select(is_last, w.size(0), following)
            base = b.select(is_last, self._after, self._base)
            yield block.index, self._at(self._base, block.index), self._at(base, following)

    def _at(self, base: Any, number: Any) -> Any:
        block = self._w.load_size(self._w.at(self._table, (number, 4)))
        return self._w.at(base, (block, self._block_bytes))
