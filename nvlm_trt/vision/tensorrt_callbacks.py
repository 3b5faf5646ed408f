"""TensorRT's callbacks during a build: a log, a progress monitor, a stream for the plan.

Their base classes belong to the module in use, so they are made for it. None may raise, because an exception that
leaves a callback ends the process. Each keeps it instead and tells TensorRT to stop, and the builder raises it again.
"""

# The base classes are known only at run time:
# mypy: disallow-subclassing-any=False

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

__all__ = ["Progress", "make_logger", "make_monitor", "make_writer", "ran_out_of_memory"]

Progress = Callable[[int, int, str], None]
"""Called with steps done, steps announced so far, and the unit's name."""

_LOG = logging.getLogger(__name__)
# "Cuda Runtime (out of memory)", "OutOfMemory", "cudaErrorMemoryAllocation", "Requested amount of GPU memory (9 bytes)
# could not be allocated": its wording differs from place to place.
_MEMORY = re.compile(
    r"out ?of ?memory|ErrorMemoryAllocation|memory \(\d+ bytes\) could not be allocated", re.IGNORECASE
)


def ran_out_of_memory(messages: Iterable[str]) -> bool:
    """Whether one of TensorRT's or PyTorch's messages says that GPU memory was short."""
    return any(_MEMORY.search(message) for message in messages)


def make_logger(trt: Any) -> Any:
    """Passes TensorRT's words to ``logging`` at debug level; ``errors`` keeps what may explain a failure."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)
            _LOG.debug("%s", message)

    return Logger()


def make_monitor(trt: Any, progress: Progress) -> Any:
    """Counts the steps of all phases; TensorRT calls it from several threads."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.error: BaseException | None = None
            self._lock = threading.Lock()
            self._done = 0
            self._announced = 0

        def phase_start(self, _phase: str, _parent: str | None, num_steps: int) -> None:
            with self._lock:
                self._announced += num_steps

        def phase_finish(self, _phase: str) -> None:
            pass

        def step_complete(self, _phase: str, _step: int) -> bool:
            with self._lock:
                self._done += 1
                try:
                    progress(self._done, max(self._done, self._announced), "steps")
                except BaseException as error:
                    self.error = error
                return self.error is None

    return Monitor()


def make_writer(trt: Any, file: BinaryIO) -> Any:
    """Writes the plan as it comes; a write of nothing tells TensorRT that it failed."""

    class Writer(trt.IStreamWriter):
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)
            self.error: BaseException | None = None

        def write(self, data: bytes) -> int:
            try:
                return file.write(data)
            except BaseException as error:
                self.error = error
                return 0

    return Writer()
