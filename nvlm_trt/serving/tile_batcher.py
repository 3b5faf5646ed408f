"""Batches tiles of many requests into calls of one vision engine, as full as the engine allows.

Requests wait in a queue. Each call of the engine takes tiles from its front until the call is full, so a request with
more tiles than fit is spread over several calls, and small requests that wait at the same time share one. A request
that arrives while a call runs joins the next one; no call waits for more requests.

If a call that several requests share fails, each is tried alone, so that one bad request spoils nobody's answer. If one
request's tiles do not fit the GPU's free memory, the call is halved until they do. Memory comes back, so the next call
is full again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.errors import CancelledError, NvlmError, OverloadedError
from nvlm_trt.vision.engine import VisionEngine, check_tiles

__all__ = ["Rows", "TileBatcher", "join_rows", "share_call"]

Rows = Any
"""[n, tokens_per_tile, output_size]: float32 numpy, or a torch tensor where the engine gives one."""


def share_call(waiting: Sequence[int], max_tiles: int) -> list[int]:
    """How many tiles of each waiting request the next call takes, first come first served."""
    shares = []
    for tiles in waiting:
        share = min(tiles, max_tiles)
        if share == 0:
            break
        shares.append(share)
        max_tiles -= share
    return shares


@dataclass(slots=True)
class _Job:
    tiles: NDArray[np.uint8]
    future: Future[Rows] = field(default_factory=Future)
    parts: list[Rows] = field(default_factory=list)
    num_done: int = 0
    since_s: float = field(default_factory=time.monotonic)

    @property
    def num_waiting(self) -> int:
        return len(self.tiles) - self.num_done


class TileBatcher:
    """Owns ``engine`` and the only thread that calls it. Without ``share_calls`` a call holds tiles of one request.

    ``waited`` is called from that thread with the seconds that each request's first tile had to wait.
    """

    def __init__(
        self,
        engine: VisionEngine,
        max_waiting_tiles: int = 4096,
        *,
        share_calls: bool = True,
        waited: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._waited = waited
        self._share_calls = share_calls
        self._num_calls = 0
        self._max_waiting_tiles = max_waiting_tiles
        self._line: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="tile-batcher", daemon=True)
        self._thread.start()

    @property
    def tile_shape(self) -> tuple[int, int, int]:
        """(height, width, 3), the engine's."""
        return self._engine.tile_shape

    @property
    def num_calls(self) -> int:
        """Calls of the engine that gave rows, since the start."""
        return self._num_calls

    def submit(self, tiles: NDArray[np.uint8]) -> Future[Rows]:
        """Encode UINT8 [n, height, width, 3], n >= 1. The future's callbacks run in the batcher's thread.

        Raises ``RequestError`` E-IMAGE-TILES for what the engine would not take, since in the queue it would hold up
        others; ``OverloadedError`` E-BUSY-VISION when too many tiles wait already.
        """
        if len(tiles) == 0:
            raise ValueError("no tiles: answer such a request without the engine")
        tiles = check_tiles(tiles, self._engine.tile_shape, len(tiles))
        job = _Job(tiles)
        job.future.set_running_or_notify_cancel()  # from now on it cannot be cancelled under the thread's feet
        with self._changed:
            if self._closed:
                raise CancelledError("E-CANCEL-SHUTDOWN", "The server is shutting down.", "Send the request again.")
            waiting = sum(other.num_waiting for other in self._line)
            if self._line and waiting + len(tiles) > self._max_waiting_tiles:
                raise OverloadedError(
                    "E-BUSY-VISION",
                    f"{waiting} tiles wait for the vision engine; {self._max_waiting_tiles} may.",
                    "Send the request again later.",
                )
            self._line.append(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """End after the running call; requests that still wait fail with E-CANCEL-SHUTDOWN."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        for job in self._line:
            job.future.set_exception(
                CancelledError("E-CANCEL-SHUTDOWN", "The server is shutting down.", "Send the request again.")
            )
        self._line.clear()
        self._engine.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._line or self._closed)
                if self._closed:
                    return
                line = self._line if self._share_calls else list(self._line)[:1]
                shares = share_call([job.num_waiting for job in line], self._engine.max_tiles)
                jobs = [self._line[index] for index in range(len(shares))]
            for job in jobs:
                if job.num_done == 0:
                    self._waited(time.monotonic() - job.since_s)
            self._encode(jobs, shares)
            with self._changed:
                while self._line and self._line[0].future.done():
                    self._line.popleft()

    def _encode(self, jobs: Sequence[_Job], shares: Sequence[int]) -> None:
        pieces = [job.tiles[job.num_done : job.num_done + share] for job, share in zip(jobs, shares, strict=True)]
        try:
            rows = self._engine.encode(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))
        except Exception as error:
            if len(jobs) == 1 and _is_out_of_memory(error) and shares[0] > 1:
                half = shares[0] // 2
                self._encode(jobs, [half])
                if not jobs[0].future.done():
                    self._encode(jobs, [shares[0] - half])
                return
            if len(jobs) == 1:
                # Whatever a native library threw, the request that met it must be answered.
                jobs[0].future.set_exception(error)
                return
            for job, share in zip(jobs, shares, strict=True):
                self._encode([job], [share])
            return
        self._num_calls += 1
        begin = 0
        for job, share in zip(jobs, shares, strict=True):
            job.parts.append(rows[begin : begin + share])
            job.num_done += share
            begin += share
            if job.num_waiting == 0:
                job.future.set_result(job.parts[0] if len(job.parts) == 1 else join_rows(job.parts))


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, NvlmError) and error.code == "E-ENGINE-MEMORY"


def join_rows(parts: Sequence[Rows]) -> Rows:
    """One array of all ``parts``, in whichever of the two libraries they are."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    import torch

    return torch.cat(list(parts))
