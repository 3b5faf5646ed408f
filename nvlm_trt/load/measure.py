"""A measurement from its first warm-up to its last check: for each load some runs, one after another.

Everything that costs time happens between runs: pictures are painted, bodies are encoded, the server's counters are
read, and answers are compared with those of the same requests alone. The latter are asked last, because asking them
warms the server's caches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nvlm_trt.client import open_client
from nvlm_trt.errors import NvlmError
from nvlm_trt.load.answers import Answers
from nvlm_trt.load.doors.base import Door
from nvlm_trt.load.doors.registry import door_of
from nvlm_trt.load.drive import drive
from nvlm_trt.load.journal import Journal
from nvlm_trt.load.picture import picture_bytes
from nvlm_trt.load.record import Record, UnderWay
from nvlm_trt.load.request import LoadRequest, Planned
from nvlm_trt.load.run_log import RunEnd, RunStart
from nvlm_trt.load.schedule import Load, schedule_digest
from nvlm_trt.load.server_side import Counters, difference, read_counters
from nvlm_trt.load.summary import distribution
from nvlm_trt.load.target import Target
from nvlm_trt.model.tiling import Grid

__all__ = ["MeasureOptions", "measure"]

_SETTLE_S = 0.4  # the decoder brings its counters up to date a few times a second
_WARM_UP_CLIENTS = 8


@dataclass(frozen=True, slots=True)
class MeasureOptions:
    """``requests`` of each run, ``warm_up`` of each load, not counted; ``check`` compares answers."""

    requests: int
    repetitions: int
    warm_up: int
    seed: int
    check: bool


async def measure(
    target: Target,
    loads: Sequence[Load],
    options: MeasureOptions,
    journal: Journal,
    stop: asyncio.Event,
    note: Callable[[str], None] = lambda text: None,
) -> None:
    """Record everything in ``journal``. ``stop`` ends the current run and the measurement; outside of a run, the next
    one is recorded as interrupted, so that nobody takes what is there for all that was asked for.

    A server that fails is no error here: its failed requests are the result.
    """
    door = door_of(target.url).open(target.url, target.timeout_s)
    try:
        measuring = _Measuring(target, door, options, journal, stop, note)
        for number, load in enumerate(loads):
            await measuring.point(number, load)
            if measuring.interrupted:
                break
    finally:
        await door.close()


class _Measuring:
    def __init__(
        self,
        target: Target,
        door: Door,
        options: MeasureOptions,
        journal: Journal,
        stop: asyncio.Event,
        note: Callable[[str], None],
    ) -> None:
        self._target, self._door, self._options = target, door, options
        self._journal, self._stop, self._note = journal, stop, note
        self._runs = 0
        self.interrupted = False
        self._prepared: dict[LoadRequest, Any] = {}
        self._tiles: dict[tuple[str, ...], int | None] = {}

    async def point(self, number: int, load: Load) -> None:
        options = self._options
        clients = load.clients or _WARM_UP_CLIENTS
        self._note(f"load {number + 1}, {load.form().shown}: warming up")
        warm_up = load.plan(options.seed, f"{number}/warm-up", options.warm_up)[: options.warm_up]
        await self._drive(load, warm_up, clients)
        answers: dict[int, Answers] = {}
        for repetition in range(options.repetitions):
            run, self._runs = self._runs, self._runs + 1
            answers[run] = await self._run(number, repetition, load)
            if self.interrupted:
                return
        if options.check and not self._stop.is_set():
            await self._check(load, answers)
        self._prepared.clear()

    async def _run(self, point: int, repetition: int, load: Load) -> Answers:
        plan = load.plan(self._options.seed, f"{point}/{repetition}", self._options.requests)
        self._note(f"load {point + 1}, {load.form().shown}: run {repetition + 1} of {self._options.repetitions}")
        self._journal.run(
            RunStart(
                point=point,
                repetition=repetition,
                load=load.form(),
                planned=len(plan),
                schedule_sha256=schedule_digest(plan),
            )
        )
        answers = Answers()
        if self._stop.is_set():
            self.interrupted = True  # a run without an end is one that was cut off
            return answers
        prepared = self._prepare(load, plan)

        def ended(taken: UnderWay, start_s: float) -> None:
            request = taken.planned.request
            self._journal.request(Record.of(taken, start_s, self._tiles.get(request.pictures)))
            if taken.code is None:
                answers.add(request, taken.text)

        before = await self._counters()
        driven = await drive(self._door, prepared, load.clients, self._stop, ended)
        self.interrupted = driven.interrupted
        after = await self._counters()
        self._journal.run_end(
            RunEnd(
                interrupted=driven.interrupted,
                loop_lag_ms=distribution(driven.loop_lags_ms),
                cpu_share=driven.cpu_s / driven.wall_s,
                server=difference(before, after),
            )
        )
        return answers

    async def _counters(self) -> Counters:
        if self._target.metrics_url:
            await asyncio.sleep(_SETTLE_S)
        return read_counters(self._target.triton_url, self._target.metrics_url)

    async def _check(self, load: Load, answers: dict[int, Answers]) -> None:
        distinct = tuple(dict.fromkeys(request for one in answers.values() for request in one.requests))
        self._note(f"asking {len(distinct)} requests alone")
        alone: dict[LoadRequest, str | None] = dict.fromkeys(distinct)
        for taken in await self._drive(load, tuple(map(Planned, distinct)), 1):
            alone[taken.planned.request] = taken.text if taken.code is None else None
        if self._stop.is_set():
            return
        for run, one in answers.items():
            self._journal.check(run, one.against(alone))

    async def _drive(self, load: Load, plan: tuple[Planned, ...], clients: int) -> list[UnderWay]:
        return (await drive(self._door, self._prepare(load, plan), clients, self._stop)).done

    def _prepare(self, load: Load, plan: Sequence[Planned]) -> list[tuple[Planned, Any]]:
        for request in (one.request for one in plan):
            if request not in self._prepared:
                pictures = [
                    picture_bytes(name, load.folder, request.seed + place)
                    for place, name in enumerate(request.pictures)
                ]
                self._prepared[request] = self._door.prepare(request, pictures)
                self._count_tiles(request, pictures)
        return [(one, self._prepared[one.request]) for one in plan]

    def _count_tiles(self, request: LoadRequest, pictures: list[bytes]) -> None:
        """Ask the server how many tiles it cuts, once for each combination of pictures."""
        if request.pictures in self._tiles:
            return
        tiles: int | None = 0
        if pictures:
            try:
                tiles = self._ask_tiles(request, pictures) if self._target.triton_url else None
            except NvlmError:
                tiles = None
        self._tiles[request.pictures] = tiles

    def _ask_tiles(self, request: LoadRequest, pictures: list[bytes]) -> int:
        assert self._target.triton_url is not None
        with open_client(self._target.triton_url, self._target.timeout_s) as client:
            grids = client.measure(request.prompt, pictures).tile_grids
        # All of the release's models add a thumbnail to a picture of several tiles.
        return sum(area + (area > 1) for area in (Grid(*grid).area for grid in grids))
