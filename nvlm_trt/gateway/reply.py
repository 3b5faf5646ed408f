"""The way back to one client: a status, then a body at once or in events. One that reads nothing counts as gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

from nvlm_trt.errors import NvlmError
from nvlm_trt.gateway.body import ClientGone
from nvlm_trt.gateway.chat_answer import sse
from nvlm_trt.gateway.refusal import error_body, error_headers, error_status

__all__ = ["Reply", "Send"]

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_JSON = (b"content-type", b"application/json")
# Proxies that buffer would turn a stream into one late piece.
_EVENTS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


class Reply:
    """``status`` is None until something was sent."""

    def __init__(self, send: Send, request_id: str | None, write_s: float) -> None:
        self._send = send
        self._write_s = write_s
        self._own_headers = [(b"x-request-id", request_id.encode())] if request_id else []
        self._unsent = b""
        self.status: int | None = None

    async def json(self, data: Mapping[str, Any]) -> None:
        await self._whole(200, data, ())

    async def error(self, error: NvlmError, rest: Callable[[], Awaitable[None]] | None = None) -> None:
        """``rest`` is for a body that was not read: it reads on after the answer, and then the connection closes."""
        headers = [*error_headers(error), *([(b"connection", b"close")] if rest else [])]
        await self._whole(error_status(error), error_body(error), headers, rest)

    def add_event(self, data: Mapping[str, Any]) -> None:
        """Queue an event for the next ``send_events``."""
        self._unsent += sse(data)

    async def send_events(self) -> None:
        if self._unsent:
            await self._events(b"", more=True)

    async def end_of_events(self) -> None:
        await self._events(b"data: [DONE]\n\n", more=False)

    async def broken_events(self, error: NvlmError) -> None:
        """An error after the first token: the status has gone out, so the last event is the error, without [DONE]."""
        await self._bytes(sse(error_body(error)), more=False)

    async def _events(self, last: bytes, *, more: bool) -> None:
        if self.status is None:
            await self._start(200, _EVENTS)
        unsent, self._unsent = self._unsent, b""
        await self._bytes(unsent + last, more=more)

    async def _whole(
        self,
        status: int,
        data: Mapping[str, Any],
        headers: Iterable[tuple[bytes, bytes]],
        rest: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        body = json.dumps(data, ensure_ascii=False).encode()
        await self._start(status, (_JSON, (b"content-length", b"%d" % len(body)), *headers))
        await self._bytes(body, more=rest is not None)
        if rest:
            await rest()
            await self._bytes(b"", more=False)

    async def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.status = status
        await self._out({"type": "http.response.start", "status": status, "headers": [*headers, *self._own_headers]})

    async def _bytes(self, data: bytes, *, more: bool) -> None:
        await self._out({"type": "http.response.body", "body": data, "more_body": more})

    async def _out(self, message: MutableMapping[str, Any]) -> None:
        try:
            async with asyncio.timeout(self._write_s):
                await self._send(message)
        except TimeoutError:
            raise ClientGone from None
