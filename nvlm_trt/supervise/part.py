"""A part of the service, as its watcher sees it."""

from __future__ import annotations

import threading
from typing import Protocol

__all__ = ["Part"]


class Part(Protocol):
    """Something that is started, asked whether it lives, and ended; again and again."""

    @property
    def name(self) -> str: ...

    def start(self, abort: threading.Event) -> None:
        """Serve when this returns; leave nothing when it raises.

        Raises ``BadStart`` for what may go well the next time, ``StartAborted``, another ``NvlmError`` for what never
        will.
        """

    def how_it_ended(self) -> str | None:
        """None while its processes run. Costs next to nothing."""

    def ask(self) -> None:
        """Have it do what it is there for, in its smallest form. Raises the ``NvlmError`` that this fails of."""

    def progress(self) -> float:
        """A figure that grows while it gets on with anything."""

    def end(self) -> None:
        """By force, whatever state it is in. May be called again."""
