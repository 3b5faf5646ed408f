"""Percentile intervals by resampling questions (Efron, 1979), with a seed: the same records give the same interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "mean_interval", "ratio_interval"]

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
    means = [given[chosen].mean(axis=1) for chosen in _resampled(len(given), resamples, seed)]
    return _middle(np.concatenate(means) * scale, confidence)


def ratio_interval(
    totals: Sequence[float],
    counts: Sequence[float],
    *,
    scale: float = 1.0,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Of ``scale`` times sum(totals) / sum(counts): a mean over tokens, whose questions are resampled as wholes.

    Tokens of one answer go wrong together, so resampling tokens would promise too narrow an interval.
    """
    above, below = np.asarray(totals, np.float64), np.asarray(counts, np.float64)
    drawn = _resampled(len(above), resamples, seed)
    ratios = [above[chosen].sum(axis=1) / below[chosen].sum(axis=1) for chosen in drawn]
    return _middle(np.concatenate(ratios) * scale, confidence)


def _resampled(count: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    at_once = max(1, _CHUNK // count)
    for begin in range(0, resamples, at_once):
        yield random.integers(0, count, (min(at_once, resamples - begin), count))


def _middle(figures: NDArray[np.float64], confidence: float) -> Interval:
    low, high = np.quantile(figures, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))
