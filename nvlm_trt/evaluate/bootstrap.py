"""Percentile intervals by resampling questions (Efron, 1979), with a seed: the same records give the same interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Interval", "mean_interval"]

_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class Interval:
    low: float
    high: float


def mean_interval(
    values: Sequence[float], *, scale: float = 1.0, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Of ``scale`` times the mean of ``values``. For two runs give the differences: then it is a paired interval."""
    given = np.asarray(values, np.float64)
    random = np.random.default_rng(seed)
    at_once = max(1, _CHUNK // len(given))
    means = np.concatenate(
        [
            given[random.integers(0, len(given), (min(at_once, resamples - begin), len(given)))].mean(axis=1)
            for begin in range(0, resamples, at_once)
        ]
    )
    low, high = np.quantile(means * scale, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))
