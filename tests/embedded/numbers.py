"""Numbers at which rounding to e4m3 can go wrong."""

from __future__ import annotations

import ml_dtypes
import numpy as np


def hard_values():
    """Every e4m3 number, every midpoint between neighbours, a float32 step to both sides of each, and far beyond."""
    numbers = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    numbers = np.unique(numbers[np.isfinite(numbers)])
    centres = np.concatenate([numbers, (numbers[1:] + numbers[:-1]) / 2, [464, -464, 1e6, -1e6, 3e38, 1e-45, 1e-30]])
    centres = centres.astype(np.float32)
    # The rounding's arithmetic changes its spacing at powers of two: everything near them.
    powers = (2.0 ** np.arange(-12, 10)).astype(np.float32).view(np.int32)
    near = (powers[:, None] + np.arange(-64, 65)).astype(np.int32).view(np.float32).ravel()
    beside = [near, -near, *(np.nextafter(centres, np.float32(to), dtype=np.float32) for to in (-1e9, 1e9))]
    random = np.random.default_rng(0).integers(0, 2**32, 2_000_000, np.uint64).astype(np.uint32).view(np.float32)
    values = np.concatenate([centres, *beside, random])
    return values[np.isfinite(values)]
