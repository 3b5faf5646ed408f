"""Small real servers that answer as told, on asyncio: what a deployment cannot be made to do on demand."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

Behaviour = Callable[[int, asyncio.StreamWriter], Awaitable[None]]


def in_event_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def event(text: str, tokens: int = 1) -> bytes:
    """A frame as Triton's ``generate_stream`` sends it."""
    data = {"text_output": text, "num_input_tokens": 7, "num_output_tokens": tokens}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def head(status: str = "200 OK", kind: str = "text/event-stream") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n".encode()


@asynccontextmanager
async def served(behave: Behaviour) -> AsyncIterator[str]:
    """A server's address. ``behave`` gets each request's number and writes the answer; then the connection closes."""
    number = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        try:
            lines = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in lines.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            number += 1
            await behave(number, writer)
            await writer.drain()
        except (asyncio.CancelledError, asyncio.IncompleteReadError):
            pass  # the server is closed, or the client has left
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.close()
