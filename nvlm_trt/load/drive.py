"""Send a schedule through a door and record what comes back, in one event loop of one process.

In an open loop every request is sent when it is due, however many are still being answered. In a closed loop each of N
clients takes the next request when its last one has ended, and the request is due at that moment.

All times depend on the event loop, so the loop itself is watched: when a timer fires late, tokens were recorded late
too.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from nvlm_trt.client.failures import lost
from nvlm_trt.errors import NvlmError
from nvlm_trt.load.doors.base import Door
from nvlm_trt.load.doors.http_stream import RefusedByStatus
from nvlm_trt.load.record import UnderWay
from nvlm_trt.load.request import Planned

__all__ = ["Driven", "drive"]

_LEAD_S = 0.05  # between the start of the clock and the first due time, so that the first is not late
_WATCH_S = 0.02


@dataclass(slots=True)
class Driven:
    """A run's raw result. ``done`` are the requests that were begun, in the order of their end."""

    start_s: float
    done: list[UnderWay] = field(default_factory=list)
    loop_lags_ms: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    wall_s: float = 0.0
    interrupted: bool = False


async def drive(
    door: Door,
    planned: Sequence[tuple[Planned, Any]],
    clients: int | None,
    stop: asyncio.Event,
    ended: Callable[[UnderWay, float], None] = lambda taken, start_s: None,
) -> Driven:
    """``planned`` are requests and what ``door.prepare`` made of each; ``clients`` None is an open loop.

    ``ended`` is called after each request, with the run's start. Setting ``stop`` sends no more requests and abandons
    the answers in progress, which are among ``done`` as unfinished.
    """
    driven = Driven(start_s=0.0)

    async def one(number: int, due_s: float) -> None:
        plan, prepared = planned[number]
        taken = UnderWay(number, plan, due_s)
        try:
            taken.sent_s = time.monotonic()
            taken.code = await _ask(door, prepared, taken)
        finally:
            taken.end_s = time.monotonic()
            driven.done.append(taken)
            ended(taken, driven.start_s)

    with _undisturbed():
        start_s = driven.start_s = time.monotonic() + _LEAD_S  # after the collection, which may take longer than that
        work = _open(planned, start_s, one) if clients is None else _closed(planned, start_s, clients, one)
        cpu_s, wall_s = time.process_time(), time.monotonic()
        watch = asyncio.create_task(_watch(driven.loop_lags_ms))
        load, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
        await asyncio.wait({load, stopped}, return_when=asyncio.FIRST_COMPLETED)
        driven.interrupted = not load.done()
        driven.cpu_s, driven.wall_s = time.process_time() - cpu_s, time.monotonic() - wall_s
        for task in (watch, stopped, load):
            task.cancel()
        results = await asyncio.gather(watch, stopped, load, return_exceptions=True)
    if not driven.interrupted and results[2] is not None:
        raise results[2]
    return driven


async def _ask(door: Door, prepared: Any, taken: UnderWay) -> str | None:
    try:
        await door.ask(prepared, taken)
    except (NvlmError, RefusedByStatus) as error:
        return error.code
    except OSError as error:
        return lost(error).code
    return None if taken.times_s else "E-SERVER-EMPTY"


async def _open(planned: Sequence[tuple[Planned, Any]], start_s: float, one: Callable[[int, float], Any]) -> None:
    async with asyncio.TaskGroup() as answers:
        for number, (plan, _) in enumerate(planned):
            due_s = start_s + (plan.due_s or 0.0)
            wait_s = due_s - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            answers.create_task(one(number, due_s))


async def _closed(
    planned: Sequence[tuple[Planned, Any]], start_s: float, clients: int, one: Callable[[int, float], Any]
) -> None:
    numbers = iter(range(len(planned)))

    async def client() -> None:
        due_s = start_s
        for number in numbers:
            await one(number, due_s)
            due_s = time.monotonic()

    await asyncio.sleep(max(0.0, start_s - time.monotonic()))
    async with asyncio.TaskGroup() as all_clients:
        for _ in range(clients):
            all_clients.create_task(client())


async def _watch(lags_ms: list[float]) -> None:
    while True:
        due_s = time.monotonic() + _WATCH_S
        await asyncio.sleep(_WATCH_S)
        lags_ms.append((time.monotonic() - due_s) * 1e3)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Collect no garbage while the clock runs: prepared requests are many objects, and each collection is a pause."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
