from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from nvlm_trt.checkpoint.write_behind import WriteBehind, write_behind


class DiskFull(Exception):
    pass


class Log:
    """Tasks that write down when they are done and when they are over."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def submit(self, writer: WriteBehind, name: str, work: Callable[[], None] = lambda: None) -> None:
        def task() -> None:
            work()
            self.lines.append(f"{name} done")

        writer.submit(task, lambda: self.lines.append(f"{name} over"))


def fail() -> None:
    raise DiskFull


def test_tasks_are_done_in_order_when_the_block_ends() -> None:
    log = Log()
    with write_behind() as writer:
        for name in "abc":
            log.submit(writer, name)
    assert log.lines == ["a done", "a over", "b done", "b over", "c done", "c over"]


def test_a_failure_ends_the_rest_and_is_raised_when_the_block_ends() -> None:
    log, go_on = Log(), threading.Event()

    def fail_later() -> None:
        go_on.wait()
        fail()

    def work() -> None:
        with write_behind() as writer:
            log.submit(writer, "a", fail_later)
            log.submit(writer, "b")
            go_on.set()

    with pytest.raises(DiskFull):
        work()
    assert log.lines == ["a over", "b over"]


def test_a_failure_is_raised_at_the_next_submission() -> None:
    log, failed = Log(), threading.Event()

    def work() -> None:
        with write_behind() as writer:
            writer.submit(fail, failed.set)
            failed.wait()
            log.submit(writer, "late")
            pytest.fail("the failure was not raised")

    with pytest.raises(DiskFull):
        work()
    assert log.lines == ["late over"]


def test_an_error_in_the_block_drops_what_waits_and_releases_it() -> None:
    log, begun, go_on = Log(), threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        go_on.wait()

    def work() -> None:
        with write_behind() as writer:
            log.submit(writer, "a", hold)
            log.submit(writer, "b")
            begun.wait()
            threading.Timer(0.05, go_on.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert log.lines == ["a done", "a over", "b over"]
