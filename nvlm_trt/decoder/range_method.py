"""Which magnitude of an activation becomes the largest FP8 number.

``amax``, the largest seen, never clips and lets one outlier decide. The other two, a percentile and the least squared
error, look at how all magnitudes are distributed. Their histogram has a fixed grid, the 32768 codes of a float32's
upper half. So there is no range to guess or to grow, one pass is enough, and counts are whole numbers that add up to
the same in any order. Codes are 1/128 of a power of two apart, e4m3's numbers 1/8, so a code's middle represents its
values well enough.

For e4m3 a smaller range gains little, which is why ``amax`` is the default: it is a floating-point format whose
relative error is the same for all values down to 2^-15 of the largest. The largest values dominate the squared error,
so its search seldom clips more than a few per cent; it finds where the grid's powers of two fall well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.decoder import fp8
from nvlm_trt.decoder.layer_ops import HISTOGRAM_CODES
from nvlm_trt.decoder.numpy_ops import fake_e4m3
from nvlm_trt.errors import UsageError

__all__ = ["DEFAULT_PERCENTILE", "RangeMethod"]

DEFAULT_PERCENTILE = 99.99
# Candidate ranges of the error search: amax and down from it in sixteenths of an octave, to an eighth of it.
_CANDIDATES = 2.0 ** (-np.arange(49) / 16)


@dataclass(frozen=True, slots=True)
class RangeMethod:
    """``percentile`` counts for that method only. Its text is ``amax``, ``mse`` or ``percentile:99.99``."""

    name: Literal["amax", "percentile", "mse"] = "amax"
    percentile: float = DEFAULT_PERCENTILE

    @classmethod
    def parse(cls, text: str) -> RangeMethod:
        """Inverse of ``str``; ``percentile`` alone means 99.99. Raises ``UsageError`` E-USAGE-METHOD."""
        name, _, value = text.partition(":")
        try:
            percentile = float(value) if value else DEFAULT_PERCENTILE
        except ValueError:
            percentile = math.nan
        if name not in ("amax", "percentile", "mse") or (":" in text and (name != "percentile" or not value)):
            raise UsageError(
                "E-USAGE-METHOD",
                f"There is no calibration method {text!r}.",
                f"Use amax, mse, percentile or percentile:{DEFAULT_PERCENTILE}.",
            )
        if not 50 <= percentile <= 100:
            raise UsageError(
                "E-USAGE-METHOD",
                f"The percentile is {value}; 50 to 100 is allowed.",
                f"{DEFAULT_PERCENTILE} is usual.",
            )
        return cls(cast("Literal['amax', 'percentile', 'mse']", name), percentile)

    def __str__(self) -> str:
        return f"percentile:{self.percentile!r}" if self.name == "percentile" else self.name

    @property
    def needs_histogram(self) -> bool:
        return self.name != "amax"

    def choose(self, amax: float, histogram: NDArray[np.int64] | None) -> float:
        """The magnitude that becomes 448, at most ``amax``; both as float32 has them."""
        if histogram is None or not self.needs_histogram or amax == 0:
            return amax
        upper = _code_values(np.arange(1, HISTOGRAM_CODES + 1))
        if self.name == "percentile":
            # At least this many magnitudes are inside; the code's upper end, so that its own values do not clip.
            wanted = math.ceil(self.percentile / 100 * int(histogram.sum()))
            code = int(np.searchsorted(np.cumsum(histogram), wanted))
            return min(amax, float(upper[code]))
        return self._least_error(amax, histogram, upper)

    def _least_error(self, amax: float, histogram: NDArray[np.int64], upper: NDArray[np.float32]) -> float:
        present = np.flatnonzero(histogram)
        middles = (_code_values(present).astype(np.float64) + np.minimum(upper[present], np.float32(amax))) / 2
        values, counts = middles.astype(np.float32), histogram[present]
        ranges = (np.float32(amax) * _CANDIDATES).astype(np.float32)
        errors = [float(counts @ np.square(_rounding_error(values, limit))) for limit in ranges]
        # The first of equals: with no gain nothing is clipped.
        return float(ranges[int(np.argmin(errors))])


def _rounding_error(values: NDArray[np.float32], limit: np.float32) -> NDArray[np.float64]:
    return (fake_e4m3(values, fp8.scale_for(limit)) - values).astype(np.float64)


def _code_values(codes: NDArray[np.int64]) -> NDArray[np.float32]:
    """The smallest magnitude of each code; one beyond the last finite code's is infinity."""
    return (codes.astype(np.uint32) << 16).view(np.float32)
