"""The weights of Pillow's bicubic filter: which pixels make each output pixel, and how much of each.

They are in fixed point of 22 bits, as in Pillow. ``paired`` prepares them for processors that multiply 16 bits by 16
and add neighbours: pixels are taken two by two, and a weight is cut in halves, ``weight = 2**16 * high + low``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["PRECISION_BITS", "PairedTaps", "Taps", "bicubic_taps", "paired_taps"]

PRECISION_BITS = 22  # Pillow's: 32 bits less 8 of a pixel less 2 of head room
_SUPPORT = 2.0  # the bicubic filter reaches two pixels to each side
_A = -0.5


@dataclass(frozen=True, slots=True)
class Taps:
    """Which pixels make each output pixel: ``count`` int32 [out] of them from ``first`` int32 [out] on, with
    ``weights`` int32 [out, most], in 1/2^22."""

    first: NDArray[np.int32]
    count: NDArray[np.int32]
    weights: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class PairedTaps:
    """The same over pairs of pixels, 2k and 2k + 1: ``count`` int32 [out] pairs from pair ``first`` int32 [out] on.

    ``weights`` int16 [out, most, 2, 2]: for each pair the low halves of its two weights, then the high ones. A pixel
    that is in a pair but not among the taps has weight 0.
    """

    first: NDArray[np.int32]
    count: NDArray[np.int32]
    weights: NDArray[np.int16]


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
    fixed = np.trunc(weights * (1 << PRECISION_BITS) + np.copysign(0.5, weights)).astype(np.int32)
    return Taps(first, count, fixed)


@lru_cache(maxsize=64)
def paired_taps(in_size: int, out_size: int) -> PairedTaps:
    taps = bicubic_taps(in_size, out_size)
    first = taps.first // 2
    count = (taps.first + taps.count + 1) // 2 - first
    # Where the first tap is an odd pixel, all move up by one. The last columns of the padding are never counted.
    place = np.arange(taps.weights.shape[1]) + (taps.first % 2)[:, None]
    whole = np.zeros((out_size, taps.weights.shape[1] // 2 + 1, 2), np.int32)
    np.put_along_axis(whole.reshape(out_size, -1), place, taps.weights, axis=1)
    low = whole.astype(np.int16)  # wraps: a half from 2^15 on counts as negative, and the high half makes up for it
    return PairedTaps(first, count, np.stack([low, ((whole - low) >> 16).astype(np.int16)], axis=2))


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    near = ((_A + 2.0) * x - (_A + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _A
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
