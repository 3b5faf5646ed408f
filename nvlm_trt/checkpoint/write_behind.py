"""A thread that writes finished work, so that its producers can go on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["WriteBehind", "write_behind"]

_Task = tuple[Callable[[], None], Callable[[], None]]


class WriteBehind:
    """Runs tasks one after the other. After one has failed the rest are dropped, and ``submit`` raises its error."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._error: BaseException | None = None

    def submit(self, task: Callable[[], None], release: Callable[[], None]) -> None:
        """``release`` is called when the task is over, whatever its outcome."""
        if self._error is not None:
            release()
            raise self._error
        self._tasks.put((task, release))

    def drop_all(self) -> None:
        self._error = self._error or RuntimeError("the tasks were dropped")

    def run(self) -> None:
        while (item := self._tasks.get()) is not None:
            task, release = item
            try:
                if self._error is None:
                    task()
            except BaseException as error:  # raised again where the work comes from
                self._error = error
            finally:
                release()

    def end(self) -> None:
        self._tasks.put(None)

    def check(self) -> None:
        if self._error is not None:
            raise self._error


@contextmanager
def write_behind() -> Iterator[WriteBehind]:
    """On leaving without an error all tasks have been done; on leaving with one the waiting tasks are dropped."""
    writer = WriteBehind()
    thread = threading.Thread(target=writer.run, name="write-behind", daemon=True)
    thread.start()
    try:
        yield writer
    except BaseException:
        writer.drop_all()
        raise
    finally:
        writer.end()
        thread.join()
    writer.check()
