"""What a door does: prepares a request before the run, so that little is left to do while it runs, and sends it."""

from __future__ import annotations

from typing import Any, Protocol

from nvlm_trt.load.record import UnderWay
from nvlm_trt.load.request import LoadRequest

__all__ = ["Door"]


class Door(Protocol):
    """Made and used in one event loop."""

    def prepare(self, request: LoadRequest, pictures: list[bytes]) -> Any:
        """What ``ask`` sends; made before a run."""

    async def ask(self, prepared: Any, taken: UnderWay) -> None:
        """Send, and tell ``taken`` of every piece. Returns at the answer's end.

        Raises ``NvlmError``, or ``RefusedByStatus`` where a server says no in words that are not ours.
        """

    async def close(self) -> None: ...
