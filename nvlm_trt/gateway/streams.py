"""Concurrent coroutines: several streams merged into one, and work that ends when its client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from nvlm_trt.errors import NvlmError
from nvlm_trt.gateway.body import ClientGone, Receive

__all__ = ["merged", "while_connected"]

T = TypeVar("T")


async def merged(streams: Sequence[AsyncIterator[T]]) -> AsyncIterator[tuple[int, T]]:
    """Items of all ``streams`` as they come, each with its stream's number. The first error ends all."""
    if len(streams) == 1:
        async for item in streams[0]:
            yield 0, item
        return
    arrived: asyncio.Queue[tuple[int, T | NvlmError | None]] = asyncio.Queue()

    async def pump(number: int, stream: AsyncIterator[T]) -> None:
        try:
            async for item in stream:
                arrived.put_nowait((number, item))
            arrived.put_nowait((number, None))
        except NvlmError as error:
            arrived.put_nowait((number, error))

    tasks = [asyncio.ensure_future(pump(number, stream)) for number, stream in enumerate(streams)]
    try:
        for _ in streams:
            while (entry := await arrived.get())[1] is not None:
                if isinstance(entry[1], NvlmError):
                    raise entry[1]
                yield entry[0], entry[1]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run ``work``; once its client has gone, cancel it and raise ``ClientGone``. The body must have been read."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        task.result()
    finally:
        for one in (task, watcher):
            one.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await one


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
