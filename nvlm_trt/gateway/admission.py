"""Which requests are answered now, which wait, and which are refused.

Slots are counted in answers and given in the order of arrival. A slot is free again when the server is done with the
answer, not when its client has gone. A request that would wait in vain is refused at once: while all slots are taken,
the pace at which they come back says how long the queue takes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from nvlm_trt.errors import OverloadedError

__all__ = ["Admission"]

_PACE_OF = 64
_LEAST_FOR_PACE = 16


class Admission:
    """For one event loop. ``running`` and ``waiting`` count answers now."""

    def __init__(self, answers: int, waiting: int, wait_s: float) -> None:
        self._slots = answers
        self._free = answers
        self._max_waiting = waiting
        self._wait_s = wait_s
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()
        # When each of the last slots came back, since anybody found one free: idle time has no pace.
        self._given_s: deque[float] = deque(maxlen=_PACE_OF)

    @property
    def running(self) -> int:
        return self._slots - self._free

    @property
    def waiting(self) -> int:
        return sum(count for count, _ in self._queue)

    def check_room(self, count: int = 1) -> None:
        """Raises ``OverloadedError`` E-BUSY-DOOR where ``take`` would raise it at once."""
        if not self._queue and self._free >= count:
            return
        if self.waiting + count > self._max_waiting:
            raise OverloadedError("E-BUSY-DOOR", f"{self._max_waiting} answers wait already.", "Ask again in a moment.")
        if self._expected_s(count) > self._wait_s:
            raise self._too_long()

    async def take(self, count: int) -> None:
        """Raises ``OverloadedError`` E-BUSY-DOOR: no room to wait, or waiting would be or was in vain."""
        self.check_room(count)
        if not self._queue and self._free >= count:
            self._free -= count
            self._given_s.clear()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((count, turn))
        try:
            async with asyncio.timeout(self._wait_s):
                await asyncio.shield(turn)
        except BaseException as reason:
            if turn.done():
                self.give(count)
            else:
                self._queue.remove((count, turn))
                self._serve()
            if isinstance(reason, TimeoutError):
                raise self._too_long() from None
            raise

    def give(self, count: int) -> None:
        self._free += count
        self._given_s.extend([time.monotonic()] * count)
        self._serve()

    def _expected_s(self, count: int) -> float:
        """How long a new request would wait; 0 while nothing is known."""
        if len(self._given_s) < _LEAST_FOR_PACE:
            return 0.0
        seconds = time.monotonic() - self._given_s[0]
        return (self.waiting + count - self._free) * seconds / len(self._given_s)

    def _too_long(self) -> OverloadedError:
        what = f"The answer could not begin within {self._wait_s:g} s."
        return OverloadedError("E-BUSY-DOOR", what, "Ask again in a moment.")

    def _serve(self) -> None:
        while self._queue and self._free >= self._queue[0][0]:
            count, turn = self._queue.popleft()
            self._free -= count
            turn.set_result(None)
