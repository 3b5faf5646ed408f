"""Memory of processes over time, and whether it grows.

A line is fitted through the means of equal spans of time, after a warm-up, with the 95 % interval of its slope. It uses
means because neighbouring samples are alike, and an interval from the samples themselves would be far too narrow.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from scripts.processes import memory_bytes, processor_s

__all__ = ["Growth", "MemoryWatch", "growth"]

_SPANS = 20
_WARM_UP = 0.25  # of the time
# Student's t for 95 %, two-sided, by degrees of freedom; beyond the table the normal distribution's.
_T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 6: 2.45, 8: 2.31, 10: 2.23, 13: 2.16, 18: 2.10, 28: 2.05}
_GROWN = 0.02


@dataclass(frozen=True, slots=True)
class Growth:
    """Bytes; slopes are bytes a minute. ``least`` and ``most`` are the interval's ends."""

    first: float
    last: float
    slope: float
    least: float
    most: float
    minutes: float

    @property
    def flat(self) -> bool:
        """Not surely growing, or by less than a fiftieth over the time looked at."""
        return self.least <= 0 or self.slope * self.minutes <= _GROWN * self.first


def growth(samples: Sequence[tuple[float, int]]) -> Growth | None:
    """Of (seconds, bytes), in order. None for too few: five spans after the warm-up must have one."""
    if not samples:
        return None
    begin, end = samples[0][0], samples[-1][0] + 1e-9
    spans: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for at_s, size in samples:
        spans[int((at_s - begin) / (end - begin) * _SPANS)].append((at_s, size))
    kept = [span for number, span in sorted(spans.items()) if number >= _WARM_UP * _SPANS]
    if len(kept) < 5:
        return None
    minutes = [statistics.fmean(at_s for at_s, _ in span) / 60 for span in kept]
    sizes = [statistics.fmean(size for _, size in span) for span in kept]
    slope, intercept = statistics.linear_regression(minutes, sizes)
    middle = statistics.fmean(minutes)
    freedom = len(kept) - 2
    rest = sum((size - intercept - slope * at) ** 2 for at, size in zip(minutes, sizes, strict=True))
    error = math.sqrt(rest / freedom / sum((at - middle) ** 2 for at in minutes))
    margin = _t95(freedom) * error
    return Growth(sizes[0], sizes[-1], slope, slope - margin, slope + margin, minutes[-1] - minutes[0])


class MemoryWatch:
    """Samples ``processes``, names by pid, in a thread, from its constructor to ``stop``; several of one name are
    numbered. Of each sample also the processor time until then."""

    def __init__(self, processes: Mapping[int, str], period_s: float) -> None:
        self.samples: dict[str, list[tuple[float, int]]] = defaultdict(list)
        self.processor_s: dict[str, list[float]] = defaultdict(list)
        self._period_s = period_s
        self._over = threading.Event()
        alike = [(name, [pid for pid, other in processes.items() if other == name]) for name in processes.values()]
        self._names = {
            pid: name if len(pids) == 1 else f"{name} {number}"
            for name, pids in alike
            for number, pid in enumerate(pids, 1)
        }
        self._thread = threading.Thread(target=self._run, name="memory-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._period_s):
            for pid, name in self._names.items():
                with suppress(OSError):  # it has ended
                    size, used_s = memory_bytes(pid), processor_s(pid)
                    self.samples[name].append((time.monotonic(), size))
                    self.processor_s[name].append(used_s)


def _t95(freedom: int) -> float:
    return next((_T95[known] for known in sorted(_T95, reverse=True) if known <= freedom), _T95[1])
