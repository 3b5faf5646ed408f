"""A process that uses a given share of a core in short turns, as a client does that is woken for every response."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["burning"]

_TURN_S = 3e-4


@contextmanager
def burning(cores: float) -> Iterator[None]:
    """While inside, a process beside this one uses ``cores`` of a core."""
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    process = context.Process(target=_burn, args=(cores, begun), daemon=True)
    process.start()
    begun.wait()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _burn(cores: float, begun: multiprocessing.synchronize.Event) -> None:
    begun.set()
    start_s, used_s = time.perf_counter(), time.process_time()
    while True:
        if time.process_time() - used_s < cores * (time.perf_counter() - start_s):
            until_s = time.perf_counter() + _TURN_S
            while time.perf_counter() < until_s:
                pass
        else:
            time.sleep(_TURN_S)
