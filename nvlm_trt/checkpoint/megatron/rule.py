"""How the ranks' tensors make one tensor of the release.

Every rule is four steps on arrays that are views until the last: a rank's tensor gets finer axes, the part of interest
is taken, the ranks' parts are concatenated along one axis, and the axes are flattened. What the ranks are free to pad
(vocabulary rows, dummy heads) is cut off or filled with zeros there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Rule", "Shape"]

Shape = tuple[int, ...]
_Array = NDArray[Any]
_UNBOUNDED = 2**31


@dataclass(frozen=True, slots=True)
class Rule:
    """One tensor's rule.

    ``whole``: what the ranks hold together, and ``split``, the axis of it that they share; None where each holds all.
    ``unit``: what a rank holds along ``split`` is a multiple of it. ``least``, ``most``: what all may hold along
    ``split`` where that is not fixed by ``whole``. ``part`` makes a view of one rank's tensor, ``joined`` is the shape
    of all parts laid along ``axis``.
    """

    whole: Shape
    split: int | None
    unit: int
    least: int
    most: int
    part: Callable[[_Array], _Array]
    joined: Shape
    axis: int

    @classmethod
    def replicated(cls, whole: Shape) -> Rule:
        return cls(whole, None, 1, 0, 0, lambda stored: stored, whole, 0)

    @classmethod
    def along(cls, axis: int, whole: Shape) -> Rule:
        """Ranks hold consecutive rows (0) or columns (1)."""
        return cls(whole, axis, 1, whole[axis], whole[axis], lambda stored: stored, whole, axis)

    @classmethod
    def vocabulary(cls, whole: Shape) -> Rule:
        """Rows, padded at the end to what the ranks can share."""
        return cls(whole, 0, 1, whole[0], _UNBOUNDED, lambda stored: stored, whole, 0)

    @classmethod
    def half(cls, index: int, whole: Shape) -> Rule:
        """Each rank holds its rows of two tensors, gate (0) and then up (1); ``whole`` is both together."""
        rows, columns = whole
        return cls(
            whole, 0, 2, rows, rows, lambda stored: stored.reshape(2, -1, columns)[index], (rows // 2, columns), 0
        )

    @classmethod
    def kv_group(cls, slots: slice, slots_per_group: int, head_dim: int, whole: Shape) -> Rule:
        """Rows by group of a key-value head: its query heads, its key head, its value head."""
        inner, unit = whole[1:], slots_per_group * head_dim
        num_taken = len(range(*slots.indices(slots_per_group)))
        return cls(
            whole,
            0,
            unit,
            whole[0],
            whole[0],
            lambda stored: stored.reshape(-1, slots_per_group, head_dim, *inner)[:, slots],
            (whole[0] // unit, num_taken, head_dim, *inner),
            0,
        )

    @classmethod
    def vision_heads(cls, axis: int, blocks: Shape, num_heads: int, num_padded: int, whole: Shape) -> Rule:
        """Heads along ``axis``, ``whole`` with all ``num_padded`` of them; a checkpoint may hold fewer dummy heads.

        ``blocks`` is one head's entries along that axis: (head_dim,), or (3, head_dim) for q, k, v of one head after
        the other, which the release lays by kind first.
        """
        unit = whole[axis] // num_padded
        before, after = whole[:axis], whole[axis + 1 :]
        order = [
            *range(axis),
            *range(axis + 1, axis + len(blocks)),
            axis,
            *range(axis + len(blocks), len(whole) + len(blocks)),
        ]
        joined_before = (*before, *blocks[:-1])
        return cls(
            whole,
            axis,
            unit,
            num_heads * unit,
            num_padded * unit,
            lambda stored: stored.reshape(*before, -1, *blocks, *after).transpose(order),
            (*joined_before, num_padded, blocks[-1], *after),
            len(joined_before),
        )

    def fault(self, shape: Shape, first: Shape, tp: int) -> str | None:
        """What is wrong with one rank's shape; ``first`` is the first rank's, whose freely padded size all share."""
        if self.split is None:
            return None if shape == self.whole else f"every rank holds all of {list(self.whole)}"
        if shape != first:
            return f"the first rank's has {list(first)}"
        wanted = [str(size) for size in self.whole]
        low, high = -(-self.least // (tp * self.unit)) * self.unit, self.most // (tp * self.unit) * self.unit
        wanted[self.split] = (
            str(low) if low == high else f"at least {low}" if self.most == _UNBOUNDED else f"{low} to {high}"
        )
        if self.least == self.most and self.whole[self.split] % (tp * self.unit):
            return f"{list(self.whole)} cannot be shared by {tp} ranks"
        fits = len(shape) == len(self.whole) and shape == _with(self.whole, self.split, shape[self.split])
        if fits and low <= shape[self.split] <= high and shape[self.split] % self.unit == 0:
            return None
        return f"one of {tp} ranks holds [{', '.join(wanted)}]"

    def view(self, stored: _Array, shape: Shape) -> _Array | None:
        """The release's tensor as a view of the only rank's, where it lies there in one piece."""
        if not stored.flags.c_contiguous:
            return None
        part = self.part(stored)
        if part.shape[self.axis] < self.joined[self.axis]:
            return None
        taken = part[_along(self.axis, 0, self.joined[self.axis])]
        return taken.reshape(shape) if taken.flags.c_contiguous else None

    def assemble(self, tensors: Sequence[_Array], shape: Shape, copied: Callable[[int], None]) -> _Array:
        """The release's tensor in memory of its own; ``copied`` is told each rank whose part is no longer needed."""
        dtype = tensors[0].dtype
        # As bare codes: numpy copies its own types faster than ml_dtypes'. Zeros cost nothing until they are written.
        codes = np.dtype(f"u{dtype.itemsize}")
        joined = np.zeros(self.joined, codes)
        length, start = self.joined[self.axis], 0
        for rank, stored in enumerate(tensors):
            part = self.part(stored.view(codes))
            count = min(part.shape[self.axis], length - start)
            joined[_along(self.axis, start, start + count)] = part[_along(self.axis, 0, count)]
            start += count
            copied(rank)
        return joined.reshape(shape).view(dtype)


def _along(axis: int, start: int, stop: int) -> tuple[slice, ...]:
    return (*(slice(None) for _ in range(axis)), slice(start, stop))


def _with(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])
