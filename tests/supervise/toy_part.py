"""A part of the service that does as it is told."""

from __future__ import annotations

import threading

from nvlm_trt.errors import NvlmError

__all__ = ["ToyPart"]


class ToyPart:
    """``starts`` are what its starts raise, one after another, None for one that goes well; then all go well."""

    name = "toy"

    def __init__(self, *starts: Exception | None) -> None:
        self.starts = list(starts)
        self.started = self.ended = 0
        self.dead: str | None = None
        self.error: NvlmError | None = None
        self.asked = threading.Semaphore(0)

    def start(self, abort: threading.Event) -> None:
        self.started += 1
        error = self.starts.pop(0) if self.starts else None
        if error is not None:
            raise error
        self.dead = self.error = None

    def how_it_ended(self) -> str | None:
        return self.dead

    def ask(self) -> None:
        self.asked.release()
        if self.error is not None:
            raise self.error

    def progress(self) -> float:
        return 0.0

    def end(self) -> None:
        self.ended += 1
