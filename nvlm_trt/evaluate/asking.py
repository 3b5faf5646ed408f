"""Ask a bounded number of questions at once, and lose no answer when one of them fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

__all__ = ["in_parallel"]

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(work: Callable[[T], R], items: Iterable[T], concurrency: int) -> Iterator[tuple[T, R]]:
    """Items with their results, in the order in which calls of ``work`` end; at most ``concurrency`` run at a time.

    After the first exception no further call begins. The results of the running calls are still yielded, and then the
    exception is raised.
    """
    waiting = iter(items)
    failure: BaseException | None = None
    running: dict[Future[R], T] = {}
    with ThreadPoolExecutor(concurrency) as pool:
        while True:
            if failure is None:
                for item in islice(waiting, concurrency - len(running)):
                    running[pool.submit(work, item)] = item
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                item = running.pop(future)
                error = future.exception()
                if error is None:
                    yield item, future.result()
                else:
                    failure = failure or error
    if failure is not None:
        raise failure
