"""How often a part of the service has failed lately: when to restart it, and when to give up.

After the first failure the part is restarted at once, because most failures occur alone. Each further failure doubles
the pause before the restart. A failure is forgotten after a window of time, but only once the part has served again: a
part whose every start takes longer than the window and then fails must not be restarted for ever.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

__all__ = ["Failures", "RestartPolicy"]


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """The service gives up at ``limit`` failures within ``window_s`` seconds. Pauses are in seconds."""

    limit: int = 5
    window_s: float = 600.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 30.0


class Failures:
    """The failures of one part. Times are seconds of one monotonic clock."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._times: deque[float] = deque()
        self._served = False

    @property
    def count(self) -> int:
        """How many are not yet forgotten."""
        return len(self._times)

    def served(self) -> None:
        """Note that the part has started and serves."""
        self._served = True

    def failed(self, now_s: float) -> float | None:
        """Note a failure. Returns the seconds until the next start, or None to give up."""
        while self._served and self._times and now_s - self._times[0] >= self._policy.window_s:
            self._times.popleft()
        self._served = False
        self._times.append(now_s)
        if len(self._times) >= self._policy.limit:
            return None
        if len(self._times) == 1:
            return 0.0
        return min(self._policy.first_pause_s * 2.0 ** (len(self._times) - 2), self._policy.longest_pause_s)
