"""What an answer to "do you live?" means.

A server that says its model process is dead, is. One that is full is alive. One that says nothing may be dead or have
much to do: it lives as long as any answer gets on. All else is doubted once and then believed, because a single
question can meet a moment in which something was just being closed.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from nvlm_trt.errors import NvlmError, OverloadedError

__all__ = ["Suspicion", "Verdict"]

_CERTAIN = frozenset({"E-SERVER-MODEL", "E-ENGINE-FAULT", "E-ENGINE-RANK", "E-ENGINE-CLOSED"})
_SILENT = "E-SERVER-TIMEOUT"
_BELIEVED_AT = 2


class Verdict(Enum):
    ALIVE = "alive"
    DOUBTED = "doubted"
    DEAD = "dead"


class Suspicion:
    """Against one part, since a start after which it had made ``progress``."""

    def __init__(self, progress: float = 0.0) -> None:
        self._progress = progress
        self._doubts = 0

    def excuse(self, error: NvlmError, progress: Callable[[], float]) -> NvlmError | None:
        """None for an error of one that lives and has much to do; ``progress`` tells a figure that grows while answers
        get on.
        """
        if isinstance(error, OverloadedError):
            return None
        if error.code == _SILENT and (now := progress()) > self._progress:
            self._progress = now
            return None
        return error

    def judge(self, error: NvlmError | None) -> Verdict:
        """Of what was left of the last question's answer."""
        if error is None:
            self._doubts = 0
            return Verdict.ALIVE
        self._doubts += 1
        return Verdict.DEAD if error.code in _CERTAIN or self._doubts >= _BELIEVED_AT else Verdict.DOUBTED
