"""Progress of a run on stderr: a live line with rate and time left on a terminal, else a line every ten seconds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from nvlm_trt.evaluate.run import Reporter

__all__ = ["eval_reporter"]

_PERIOD_S = 10.0


@contextlib.contextmanager
def eval_reporter(name: str, *, quiet: bool) -> Iterator[Reporter]:
    console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
    if quiet or not console.is_terminal:
        yield _Lines(name, console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[errors]}"), console=console, transient=True) as progress:
        yield _Live(name, progress)


class _Lines:
    def __init__(self, name: str, console: Console) -> None:
        self._name, self._console = name, console
        self._total = self._kept = 0
        self._begun_s = self._told_s = time.monotonic()

    def started(self, total: int, kept: int) -> None:
        self._total, self._kept = total, kept
        if kept:
            self._console.print(f"{self._name}: {kept} of {total} are answered already")

    def advanced(self, done: int, errors: int) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s < _PERIOD_S:
            return
        self._told_s = now_s
        rate = (done - self._kept) / (now_s - self._begun_s)
        left_s = (self._total - done) / rate
        self._console.print(
            f"{self._name}: {done} of {self._total}, {rate:.1f}/s, {left_s:.0f} s left, {errors} errors", markup=False
        )


class _Live:
    def __init__(self, name: str, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=None, errors="")

    def started(self, total: int, kept: int) -> None:
        self._progress.reset(self._task, total=total, completed=kept)

    def advanced(self, done: int, errors: int) -> None:
        self._progress.update(self._task, completed=done, errors=f"{errors} errors" if errors else "")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")
