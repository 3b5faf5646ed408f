"""Who is answered now, who waits, and who is turned away.

Slots are counted in answers and given in the order of arrival. A slot comes back when the server is done with the
answer, not when its client has gone.
"""

from __future__ import annotations

import asyncio
from collections import deque

from nvlm_trt.errors import OverloadedError

__all__ = ["Admission"]


class Admission:
    """For one event loop. ``running`` and ``waiting`` count answers now."""

    def __init__(self, answers: int, waiting: int, wait_s: float) -> None:
        self._slots = answers
        self._free = answers
        self._max_waiting = waiting
        self._wait_s = wait_s
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def running(self) -> int:
        return self._slots - self._free

    @property
    def waiting(self) -> int:
        return sum(count for count, _ in self._queue)

    def check_room(self, count: int = 1) -> None:
        """Raises ``OverloadedError`` E-BUSY-DOOR where ``take`` would at once."""
        if (self._queue or self._free < count) and self.waiting + count > self._max_waiting:
            raise OverloadedError("E-BUSY-DOOR", f"{self._max_waiting} answers wait already.", "Ask again in a moment.")

    async def take(self, count: int) -> None:
        """Raises ``OverloadedError`` E-BUSY-DOOR: no room to wait, or waited in vain."""
        self.check_room(count)
        if not self._queue and self._free >= count:
            self._free -= count
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
                raise OverloadedError(
                    "E-BUSY-DOOR", f"The answer could not begin within {self._wait_s:g} s.", "Ask again in a moment."
                ) from None
            raise

    def give(self, count: int) -> None:
        self._free += count
        self._serve()

    def _serve(self) -> None:
        while self._queue and self._free >= self._queue[0][0]:
            count, turn = self._queue.popleft()
            self._free -= count
            turn.set_result(None)
