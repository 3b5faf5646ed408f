"""How often a part of the service has failed lately: when to start it again, and when to give it up.

The first failure is followed by a start at once, since most are single; each further one by twice the pause of the
one before. A failure is forgotten after a window of time, but only once the part has served again: a part whose every
start takes longer than the window and fails must not be started for ever.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

__all__ = ["Failures", "RestartPolicy"]


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """The failure that makes it ``limit`` within ``window_s`` seconds is the last."""

    limit: int = 5
    window_s: float = 600.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 30.0


class Failures:
    """Of one part. Times are seconds of one monotonic clock, never going back."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._times: deque[float] = deque()
        self._served = False

    @property
    def count(self) -> int:
        """Not yet forgotten."""
        return len(self._times)

    def served(self) -> None:
        """The part has started and serves."""
        self._served = True

    def failed(self, now_s: float) -> float | None:
        """Seconds until the next start; None to give up."""
        while self._served and self._times and now_s - self._times[0] >= self._policy.window_s:
            self._times.popleft()
        self._served = False
        self._times.append(now_s)
        if len(self._times) >= self._policy.limit:
            return None
        if len(self._times) == 1:
            return 0.0
        return min(self._policy.first_pause_s * 2.0 ** (len(self._times) - 2), self._policy.longest_pause_s)
