"""Pillow's bicubic filter, compiled: all sizes from one reading of the picture, in the processor's vector registers.

What is slow about the filter is its horizontal pass. Neighbours along a row go into one sum, so a vector register would
have to be added up within itself. The kernel therefore takes the picture in strips of 64 rows and turns each so that
equal columns of the rows lie side by side: then every weight multiplies 256 bytes in a row, and the sums are columns
that never meet. A strip stays in the processor's cache while every wanted size is made from it, and its results are
turned back as they are stored. The vertical pass has its sums side by side from the start.

Sums are exact: weights have 22 bits after the point and their magnitudes add up to less than 1.4, so that 255 times
them stays below 2^31. In whole numbers the order of additions changes nothing, which is why vectors may be used at all.

The functions below are plain Python over numpy arrays; numba compiles them when ``CompiledResample`` is made, and
importing this module does not load it. Nothing is kept on disk: compiling takes seconds, once per process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nvlm_trt.model.resample import pillow_resample

__all__ = ["CompiledResample", "Taps", "bicubic_taps"]

_PRECISION_BITS = 22  # Pillow's: 32 bits less 8 of a pixel less 2 of head room
_SUPPORT = 2.0  # the bicubic filter reaches two pixels to each side
_A = -0.5
_STRIP_ROWS = 64
_SLIVER = 100  # times as tall as wide: such pictures Pillow may shrink vertically first, and has few pixels to do
_BYTES_PER_PIXEL = 4  # Pillow keeps RGB in four bytes, and a pixel of four is turned with one move


@dataclass(frozen=True, slots=True)
class Taps:
    """Which pixels make each output pixel: ``count`` int32 [out] of them from ``first`` int32 [out] on, with
    ``weights`` int32 [out, most], in 1/2^22."""

    first: NDArray[np.int32]
    count: NDArray[np.int32]
    weights: NDArray[np.int32]


@lru_cache(maxsize=64)
def bicubic_taps(in_size: int, out_size: int) -> Taps:
    """The same operations on the same doubles in the same order as Pillow's ``precompute_coeffs``."""
    scale = in_size / out_size
    stretch = max(scale, 1.0)
    support = _SUPPORT * stretch
    center = (np.arange(out_size) + 0.5) * scale
    first = np.maximum(np.trunc(center - support + 0.5), 0).astype(np.int32)
    count = np.minimum(np.trunc(center + support + 0.5), in_size).astype(np.int32) - first
    tap = np.arange(int(np.ceil(support)) * 2 + 1)
    weights = _bicubic((tap + first[:, None] - center[:, None] + 0.5) * (1.0 / stretch))
    weights[tap >= count[:, None]] = 0.0
    # cumsum adds one after another, as a loop does; sum would add in pairs and round differently.
    weights /= weights.cumsum(axis=1)[:, -1:]
    fixed = np.trunc(weights * (1 << _PRECISION_BITS) + np.copysign(0.5, weights)).astype(np.int32)
    return Taps(first, count, fixed)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    near = ((_A + 2.0) * x - (_A + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _A
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


class CompiledResample:
    """A ``Resample``. Making one compiles it, which takes seconds; calls let other threads run."""

    def __init__(self) -> None:
        import numba

        compiled = numba.njit(nogil=True, error_model="numpy")
        self._turn: Any = compiled(_turn)
        self._across: Any = compiled(_across)
        self._down: Any = compiled(_down)
        self(Image.new("RGB", (2, 2)), [(1, 1)])

    def __call__(self, image: Image.Image, sizes: Sequence[tuple[int, int]]) -> list[NDArray[np.uint8]]:
        width, height = image.size
        if height > _SLIVER * width:
            return pillow_resample(image, sizes)
        turned = np.empty((width, _STRIP_ROWS), np.uint32)
        sums = np.empty(_STRIP_ROWS * _BYTES_PER_PIXEL, np.int32)
        stages = [(bicubic_taps(width, wide), np.empty((height, wide, 3), np.uint8)) for wide, _ in sizes]
        for top in range(0, height, _STRIP_ROWS):
            rows = min(_STRIP_ROWS, height - top)
            strip = image.crop((0, top, width, top + rows)).tobytes("raw", "RGBX")
            self._turn(np.frombuffer(strip, np.uint32).reshape(rows, width), turned)
            for taps, narrowed in stages:
                self._across(
                    turned.view(np.uint8), taps.first, taps.count, taps.weights, sums, narrowed[top : top + rows]
                )
        results = []
        for (_, narrowed), (wide, high) in zip(stages, sizes, strict=True):
            taps = bicubic_taps(height, high)
            result = np.empty((high, wide, 3), np.uint8)
            self._down(
                narrowed.reshape(height, wide * 3),
                taps.first,
                taps.count,
                taps.weights,
                np.empty(wide * 3, np.int32),
                result.reshape(high, wide * 3),
            )
            results.append(result)
        return results


# The inner loops run over contiguous bytes and do nothing else: it is what the compiler needs to use vectors. Four taps
# a time, because a sum is read and written once for the four.


def _turn(strip: NDArray[np.uint32], turned: NDArray[np.uint32]) -> None:
    """[rows, width] to [width, rows], sixteen columns at a time so that what is written stays near."""
    rows, width = strip.shape
    for left in range(0, width, 16):
        right = min(width, left + 16)
        for row in range(rows):
            for x in range(left, right):
                turned[x, row] = strip[row, x]


def _across(
    turned: NDArray[np.uint8],
    first: NDArray[np.int32],
    count: NDArray[np.int32],
    weights: NDArray[np.int32],
    sums: NDArray[np.int32],
    narrowed: NDArray[np.uint8],
) -> None:
    """A turned strip [width, 4 * rows] to ``narrowed`` [rows, width out, 3]."""
    rows = narrowed.shape[0]
    lanes = 4 * rows
    for x in range(first.shape[0]):
        for lane in range(lanes):
            sums[lane] = np.int32(1 << 21)
        begin, taps, tap = first[x], count[x], 0
        while tap + 4 <= taps:
            w0, w1, w2, w3 = weights[x, tap], weights[x, tap + 1], weights[x, tap + 2], weights[x, tap + 3]
            p0, p1, p2, p3 = (
                turned[begin + tap],
                turned[begin + tap + 1],
                turned[begin + tap + 2],
                turned[begin + tap + 3],
            )
            for lane in range(lanes):
                sums[lane] += (
                    np.int32(np.int32(p0[lane]) * w0)
                    + np.int32(np.int32(p1[lane]) * w1)
                    + np.int32(np.int32(p2[lane]) * w2)
                    + np.int32(np.int32(p3[lane]) * w3)
                )
            tap += 4
        while tap < taps:
            w0, p0 = weights[x, tap], turned[begin + tap]
            for lane in range(lanes):
                sums[lane] += np.int32(np.int32(p0[lane]) * w0)
            tap += 1
        for lane in range(lanes):
            sums[lane] = min(max(sums[lane] >> 22, np.int32(0)), np.int32(255))
        for row in range(rows):
            for channel in range(3):
                narrowed[row, x, channel] = np.uint8(sums[4 * row + channel])


def _down(
    narrowed: NDArray[np.uint8],
    first: NDArray[np.int32],
    count: NDArray[np.int32],
    weights: NDArray[np.int32],
    sums: NDArray[np.int32],
    result: NDArray[np.uint8],
) -> None:
    """[height, lanes] to ``result`` [height out, lanes]."""
    lanes = result.shape[1]
    for y in range(first.shape[0]):
        for lane in range(lanes):
            sums[lane] = np.int32(1 << 21)
        begin, taps, tap = first[y], count[y], 0
        while tap + 4 <= taps:
            w0, w1, w2, w3 = weights[y, tap], weights[y, tap + 1], weights[y, tap + 2], weights[y, tap + 3]
            p0, p1, p2, p3 = (
                narrowed[begin + tap],
                narrowed[begin + tap + 1],
                narrowed[begin + tap + 2],
                narrowed[begin + tap + 3],
            )
            for lane in range(lanes):
                sums[lane] += (
                    np.int32(np.int32(p0[lane]) * w0)
                    + np.int32(np.int32(p1[lane]) * w1)
                    + np.int32(np.int32(p2[lane]) * w2)
                    + np.int32(np.int32(p3[lane]) * w3)
                )
            tap += 4
        while tap < taps:
            w0, p0 = weights[y, tap], narrowed[begin + tap]
            for lane in range(lanes):
                sums[lane] += np.int32(np.int32(p0[lane]) * w0)
            tap += 1
        for lane in range(lanes):
            result[y, lane] = np.uint8(min(max(sums[lane] >> 22, np.int32(0)), np.int32(255)))
