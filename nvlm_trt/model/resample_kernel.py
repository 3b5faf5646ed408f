"""Pillow's bicubic filter, compiled: all sizes from one reading of the picture.

The picture passes in strips of 16 rows. While a strip is in the processor's cache, the horizontal pass of every wanted
size is made from it, and then those rows of the result whose last pixels have just arrived. ``filter_code`` has the
inner loops and why they are exact.

Nothing is kept on disk: compiling takes a tenth of a second, once per process. Importing this module loads no compiler.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.model.filter_code import COLUMNS_PER_BLOCK, SLACK_BYTES, STRIP_ROWS, TURNED_BYTES_PER_PAIR, FilterCode
from nvlm_trt.model.pixels import Pixels, picture_size, read_rows
from nvlm_trt.model.resample import pillow_resample
from nvlm_trt.model.taps import PairedTaps, paired_taps

__all__ = ["CompiledResample"]

_SLIVER = 100  # times as tall as wide: such pictures Pillow may shrink vertically first, and has few pixels to do


class CompiledResample:
    """A ``Resample``. Constructing one compiles it; other threads run during a call."""

    def __init__(self, code: FilterCode | None = None) -> None:
        self._code = code or FilterCode()

    def __call__(self, pixels: Pixels, sizes: Sequence[tuple[int, int]]) -> list[NDArray[np.uint8]]:
        width, height = picture_size(pixels)
        if height > _SLIVER * width:
            return pillow_resample(pixels, sizes)
        strip = np.zeros((STRIP_ROWS, 3 * width + SLACK_BYTES), np.uint8)
        num_pairs = (width + 1) // 2
        turned = np.empty(num_pairs * TURNED_BYTES_PER_PAIR + SLACK_BYTES, np.uint8)
        targets = [_Target(self._code, (width, height), size) for size in sizes]
        strip_at, turned_at = strip.ctypes.data, turned.ctypes.data
        for top in range(0, height, STRIP_ROWS):
            bottom = min(top + STRIP_ROWS, height)
            strip[: bottom - top, : 3 * width] = read_rows(pixels, top, bottom)
            self._code.turn(strip_at, strip.strides[0], num_pairs, turned_at)
            for target in targets:
                target.take(turned_at, top, bottom)
        return [target.result for target in targets]


class _Target:
    """One wanted size in progress."""

    def __init__(self, code: FilterCode, size: tuple[int, int], wanted: tuple[int, int]) -> None:
        (width, height), (self._wide, high) = size, wanted
        self._code = code
        self._across, self._down = paired_taps(width, self._wide), paired_taps(height, high)
        self._num_blocks = -(-3 * self._wide // COLUMNS_PER_BLOCK)
        row_bytes = self._num_blocks * COLUMNS_PER_BLOCK
        num_row_pairs = -(-height // STRIP_ROWS) * STRIP_ROWS // 2
        self._narrowed = np.empty((num_row_pairs, 2 * row_bytes + SLACK_BYTES), np.uint8)
        self._rows = np.empty((high, row_bytes), np.uint8)
        self._num_done = 0
        # How many source rows each row of the result waits for; they wait in order.
        self._needs = np.minimum(2 * (self._down.first + self._down.count), height)
        self._narrowed_at, self._rows_at = self._narrowed.ctypes.data, self._rows.ctypes.data
        self._across_at, self._down_at = _addresses(self._across), _addresses(self._down)

    @property
    def result(self) -> NDArray[np.uint8]:
        """uint8 [height, width, 3]; a view of rows that may be longer."""
        return self._rows[:, : 3 * self._wide].reshape(len(self._rows), self._wide, 3)

    def take(self, turned_at: int, top: int, bottom: int) -> None:
        """Source rows ``top`` to ``bottom``, turned."""
        row_pair_bytes, row_bytes = self._narrowed.strides[0], self._rows.strides[0]
        self._code.across(
            turned_at,
            *self._across_at,
            self._across.weights.strides[0],
            self._wide,
            self._narrowed_at + top // 2 * row_pair_bytes,
            row_pair_bytes,
        )
        done = self._num_done
        self._num_done = int(self._needs.searchsorted(bottom, side="right"))
        first_at, count_at, weights_at = self._down_at
        weight_bytes = self._down.weights.strides[0]
        self._code.down(
            self._narrowed_at,
            row_pair_bytes,
            first_at + done * self._down.first.itemsize,
            count_at + done * self._down.count.itemsize,
            weights_at + done * weight_bytes,
            weight_bytes,
            self._num_done - done,
            self._num_blocks,
            self._rows_at + done * row_bytes,
            row_bytes,
        )


def _addresses(taps: PairedTaps) -> tuple[int, int, int]:
    return taps.first.ctypes.data, taps.count.ctypes.data, taps.weights.ctypes.data
