"""When requests are due. A schedule is fixed before its run begins and does not depend on how the server fares."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from nvlm_trt.load.mix import Mix, draw_requests
from nvlm_trt.load.request import LoadRequest, Planned
from nvlm_trt.load.result import PointLoad

__all__ = ["ClosedLoad", "Load", "PoissonLoad", "TraceLoad", "UniformLoad", "poisson_arrivals", "schedule_digest"]


class Load(Protocol):
    """A kind of load, and how strong."""

    @property
    def clients(self) -> int | None:
        """How many clients of a closed loop there are; None where arrivals do not wait for answers."""

    @property
    def folder(self) -> Path:
        """Where files of pictures lie."""

    def form(self) -> PointLoad: ...

    def plan(self, seed: int, label: str, requests: int) -> tuple[Planned, ...]:
        """With the same ``seed``, each ``label`` gives different requests. A trace ignores all three arguments."""


@dataclass(frozen=True, slots=True)
class _OfMix:
    mix: Mix

    @property
    def folder(self) -> Path:
        return self.mix.folder

    def _draw(self, seed: int, label: str, requests: int) -> Iterator[LoadRequest]:
        return islice(draw_requests(self.mix, seed, label), requests)


@dataclass(frozen=True, slots=True)
class ClosedLoad(_OfMix):
    clients: int

    def form(self) -> PointLoad:
        return PointLoad(kind="closed", clients=self.clients)

    def plan(self, seed: int, label: str, requests: int) -> tuple[Planned, ...]:
        return tuple(map(Planned, self._draw(seed, label, requests)))


@dataclass(frozen=True, slots=True)
class PoissonLoad(_OfMix):
    """Independent users: gaps between arrivals are exponential."""

    rate_per_s: float
    clients: None = None

    def form(self) -> PointLoad:
        return PointLoad(kind="poisson", rate_per_s=self.rate_per_s)

    def plan(self, seed: int, label: str, requests: int) -> tuple[Planned, ...]:
        due = poisson_arrivals(self.rate_per_s, random.Random(f"{seed}/{label}/arrivals"))
        return tuple(map(Planned, self._draw(seed, label, requests), due))


@dataclass(frozen=True, slots=True)
class UniformLoad(_OfMix):
    """One request every 1 / rate seconds."""

    rate_per_s: float
    clients: None = None

    def form(self) -> PointLoad:
        return PointLoad(kind="uniform", rate_per_s=self.rate_per_s)

    def plan(self, seed: int, label: str, requests: int) -> tuple[Planned, ...]:
        drawn = enumerate(self._draw(seed, label, requests))
        return tuple(Planned(request, number / self.rate_per_s) for number, request in drawn)


@dataclass(frozen=True, slots=True)
class TraceLoad:
    """A trace, replayed ``speed`` times as fast. Repetitions ask the same requests."""

    trace: tuple[Planned, ...]
    folder: Path
    speed: float = 1.0
    clients: None = None

    def form(self) -> PointLoad:
        span_s = ((self.trace[-1].due_s or 0.0) - (self.trace[0].due_s or 0.0)) / self.speed
        return PointLoad(kind="trace", rate_per_s=(len(self.trace) - 1) / span_s if span_s else None)

    def plan(self, seed: int, label: str, requests: int) -> tuple[Planned, ...]:
        return tuple(Planned(planned.request, (planned.due_s or 0.0) / self.speed) for planned in self.trace)


def poisson_arrivals(rate_per_s: float, draw: random.Random) -> Iterator[float]:
    """Seconds of each arrival: the running sum of -ln(1 - u) / rate, u uniform on [0, 1)."""
    at_s = 0.0
    while True:
        at_s -= math.log1p(-draw.random()) / rate_per_s
        yield at_s


def schedule_digest(planned: Sequence[Planned]) -> str:
    """SHA-256 over every request and its due time: runs with the same digest were asked the same."""
    lines = (json.dumps(one.to_json(), sort_keys=True) for one in planned)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
