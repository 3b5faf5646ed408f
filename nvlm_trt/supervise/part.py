"""A part of the service, as its watcher sees it: something that can be started, asked and ended, again and again."""

from __future__ import annotations

import threading
from typing import Protocol

__all__ = ["Part"]


class Part(Protocol):
    """``name`` is for the log and the answer of ``/health``."""

    @property
    def name(self) -> str: ...

    def start(self, abort: threading.Event) -> None:
        """The part serves when this returns, and has left nothing behind when this raises.

        Raises ``BadStart`` for a failure that may not occur the next time, ``StartAborted`` once ``abort`` is set, and
        another ``NvlmError`` for a failure that will always occur.
        """

    def how_it_ended(self) -> str | None:
        """A sentence, or None while all its processes run. Cheap enough to be called often."""

    def ask(self) -> None:
        """Have it do the smallest piece of its work. Raises the ``NvlmError`` with which that fails."""

    def progress(self) -> float:
        """A figure that grows as long as any work makes progress."""

    def end(self) -> None:
        """End it by force, whatever state it is in. May be called again."""
