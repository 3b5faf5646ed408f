"""HTTP/1.1 by uvicorn over h11, with a deadline that uvicorn does not have: for the head of a request.

Without it, a client that sends a head letter by letter, or none at all, keeps its connection for ever. h11 bounds the
size of a head and of a chunk's, and refuses what is not HTTP, including two lengths that differ.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["bounded_protocol"]


def bounded_protocol(head_s: float) -> type[H11Protocol]:
    """A class, because that is what uvicorn takes."""

    class BoundedProtocol(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._unwatch()

        def _watch(self) -> None:
            """Time runs while a head is awaited: it begins with the connection, or with the next head's first byte."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._unwatch()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(head_s, self.transport.abort)

        def _unwatch(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return BoundedProtocol
