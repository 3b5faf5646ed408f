"""A request's body, measured while it comes in: how large, how slow, and how much of all bodies together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from nvlm_trt.errors import OverloadedError
from nvlm_trt.gateway.refusal import Refusal
from nvlm_trt.gateway.settings import Limits

__all__ = ["ClientGone", "Held", "HeldBytes", "Receive", "discard_body", "read_body"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_DISCARD_S = 2.0


class ClientGone(Exception):
    """The client has left, so nobody reads the answer."""


class HeldBytes:
    """The bytes that all requests hold together; ``most`` bounds them."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.now = 0


class Held:
    """One request's share. ``let_go`` may be called again."""

    def __init__(self, total: HeldBytes) -> None:
        self._total = total
        self._bytes = 0

    def add(self, count: int) -> None:
        """Raises ``OverloadedError`` E-BUSY-BYTES."""
        if self._total.now + count > self._total.most:
            raise OverloadedError("E-BUSY-BYTES", "The requests being read fill the memory.", "Ask again in a moment.")
        self._total.now += count
        self._bytes += count

    def let_go(self) -> None:
        self._total.now -= self._bytes
        self._bytes = 0


async def read_body(receive: Receive, limits: Limits, held: Held) -> bytes:
    """Raises ``Refusal`` E-DOOR-BODY (413), E-DOOR-SLOW (408), ``OverloadedError``, ``ClientGone``."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_s):
            more = True
            while more:
                part, more = await _part(receive)
                size += len(part)
                if size > limits.body_bytes:
                    raise Refusal(
                        "E-DOOR-BODY", f"The body has more than {limits.body_bytes:,} bytes.", "Send less.", status=413
                    )
                held.add(len(part))
                parts.append(part)
    except TimeoutError:
        what = f"The body did not come within {limits.body_s:g} s."
        raise Refusal("E-DOOR-SLOW", what, "Send it at once.", status=408) from None
    return b"".join(parts)


async def discard_body(receive: Receive, limits: Limits) -> None:
    """Read on for a moment and discard it: a client that is still sending when the connection closes may never see the
    answer that was sent before."""
    with suppress(TimeoutError, ClientGone):
        async with asyncio.timeout(min(_DISCARD_S, limits.body_s)):
            size, more = 0, True
            while more and size < 2 * limits.body_bytes:
                part, more = await _part(receive)
                size += len(part)


async def _part(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message.get("body", b""), message.get("more_body", False)
