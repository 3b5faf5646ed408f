"""Ctrl-C and SIGTERM for commands that run until one of them."""

from __future__ import annotations

import signal
import threading

__all__ = ["UntilStopped"]

_WATCH_S = 0.5


class UntilStopped:
    """A start can be left at any point. A stop cannot: a second Ctrl-C must not leave half of it undone."""

    def __init__(self) -> None:
        self._begun, self._stop = threading.Event(), threading.Event()
        self.hurry = threading.Event()
        """Set by a second signal, after the one that stops."""

    def begin(self) -> None:
        """From now on a signal does not interrupt; ``wait`` tells of it."""
        self._begun.set()

    def wait(self, seconds: float = _WATCH_S) -> bool:
        """Whether to stop; waits for it."""
        return self._stop.wait(seconds)

    def __enter__(self) -> UntilStopped:
        self._before = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, *_: object) -> None:
        if not self._begun.is_set():
            raise KeyboardInterrupt
        (self.hurry if self._stop.is_set() else self._stop).set()
