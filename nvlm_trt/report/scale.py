"""From values to places on an axis, with round numbers to mark: linear, or logarithmic where values span decades."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Scale", "fitting", "shown"]

# From this ratio on, a linear axis crowds most points at its beginning.
_DECADES_RATIO = 12.0
# And from this one on, a logarithmic axis has room for its decades only.
_FINE_RATIO = 500.0
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """``ticks`` lie within ``low`` to ``high``."""

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """0 at ``low``, 1 at ``high``."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def fitting(values: Iterable[float], *, zero: bool = False, most: float | None = None, ticks: int = 5) -> Scale:
    """Around all values, a little wider. ``zero`` begins a linear scale there; ``most`` is never passed.

    Values of which all are positive and far apart get a logarithmic scale.
    """
    kept = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(kept), max(kept)
    if low > 0 and high / low >= _DECADES_RATIO:
        return _logarithmic(low / 1.25, high * 1.25)
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    low, high = (0.0 if zero and low >= 0 else low - room), high + room
    if most is not None:
        high = min(high, most)
    step = _round_step((high - low) / ticks)
    first = math.ceil(low / step - 1e-9)
    marks = [step * index for index in range(first, math.floor(high / step + 1e-9) + 1)]
    return Scale(low, high, tuple(marks))


def _logarithmic(low: float, high: float) -> Scale:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine: Sequence[int] = (1, 2, 5) if high / low <= _FINE_RATIO else (1,)
    marks = [factor * 10.0**decade for decade in decades for factor in fine]
    return Scale(low, high, tuple(mark for mark in marks if low <= mark <= high), logarithmic=True)


def _round_step(about: float) -> float:
    size = 10.0 ** math.floor(math.log10(about))
    return next(step * size for step in _STEPS if step * size >= about * 0.999)


def shown(value: float) -> str:
    """Three significant digits, without an exponent where that can be read."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = 2 - math.floor(math.log10(abs(value)))
    if digits > 6:
        return f"{value:.1e}"
    text = f"{value:,.{max(0, digits)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
