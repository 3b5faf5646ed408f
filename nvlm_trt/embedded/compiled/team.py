"""Threads that compute steps together: the caller's, and a worker for each further core.

Between two steps workers spin for a tenth of a millisecond, in compiled code, and then sleep on a lock. Waking a thread
takes as long as a small model's step, but between requests the cores should belong to others.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np

from nvlm_trt.embedded.compiled.memory import aligned
from nvlm_trt.embedded.compiled.step_function import StepFunction
from nvlm_trt.embedded.compiled.team_code import WAKE
from nvlm_trt.embedded.compiled.vector_writer import LINE

__all__ = ["Team"]

_WORD = 8


class Team:
    """``step`` is a ``STEP`` record, whose fields for the team are set here. ``threads`` None means all cores."""

    def __init__(self, function: StepFunction, step: Any, threads: int | None) -> None:
        count = threads or len(os.sched_getaffinity(0))
        scratch = aligned((count, function.layout.scratch()["size"]), np.uint8)
        self._board = aligned((function.num_phases, LINE // _WORD), np.int64, zeroed=True)
        self._calls = aligned((count, LINE // _WORD), np.int64, zeroed=True)
        step["scratch"], step["board"] = scratch.ctypes.data, self._board.ctypes.data
        self._held = step, scratch
        self._step, self._calls_at = step.ctypes.data, self._calls.ctypes.data
        code = function.code
        self._call, self._lead = code.function("call", "ai"), code.function("lead", "aa")
        self._work = code.function("work", "aai")
        self._locks = [threading.Lock() for _ in range(1, count)]
        self._closed = False
        for thread, lock in enumerate(self._locks, 1):
            lock.acquire()
            self._calls[thread, 0] = 1  # asleep
            threading.Thread(target=self._help, args=(thread, lock), name="nvlm-step", daemon=True).start()

    def run(self) -> None:
        """Run the step that the record describes."""
        self._board[:, :2] = 0
        self._wake()
        self._lead(self._calls_at, self._step)

    def close(self) -> None:
        """End the workers, which must be idle."""
        self._closed = True
        self._calls[0, 0] = -(2**62)
        self._wake()

    def _wake(self) -> None:
        self._call(self._calls_at, len(self._locks))
        for lock, was_asleep in zip(self._locks, self._calls[1:, WAKE // _WORD].tolist(), strict=True):
            if was_asleep:
                lock.release()

    def _help(self, thread: int, lock: Any) -> None:
        while not self._closed:
            lock.acquire()
            self._work(self._calls_at, self._step, thread)
