"""Whether a part that did not answer its question is dead.

A server that reports a dead model process is believed at once. A full server is alive. A silent one may be dead or
busy, and counts as alive as long as any answer makes progress. Every other error is believed only when it comes twice
in a row, because a single question can arrive just as something is being closed.
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
    """What speaks against one part since its last start, when its progress was ``progress``."""

    def __init__(self, progress: float = 0.0) -> None:
        self._progress = progress
        self._doubts = 0

    def excuse(self, error: NvlmError, progress: Callable[[], float]) -> NvlmError | None:
        """``error``, or None if a live but busy part explains it. ``progress`` reads a figure that grows as answers
        make progress.
        """
        if isinstance(error, OverloadedError):
            return None
        if error.code == _SILENT and (now := progress()) > self._progress:
            self._progress = now
            return None
        return error

    def judge(self, error: NvlmError | None) -> Verdict:
        """Judge by the last question's error, as ``excuse`` left it."""
        if error is None:
            self._doubts = 0
            return Verdict.ALIVE
        self._doubts += 1
        return Verdict.DEAD if error.code in _CERTAIN or self._doubts >= _BELIEVED_AT else Verdict.DOUBTED
