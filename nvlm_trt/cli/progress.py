"""A build's progress on stderr: a live line with rate, memory and time left on a terminal, else a line per step.

Not on a terminal, a step that takes long also says how far it is, once a minute: a calibration may take hours, and a
log that is silent for hours looks like a build that hangs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from nvlm_trt.cli.output import shown_bytes
from nvlm_trt.pipeline.memory import process_memory
from nvlm_trt.pipeline.report import Reporter, SilentReporter, StepReport

__all__ = ["build_reporter", "reading_reporter"]


_QUIET_S = 60
_NOTES = 4  # a checkpoint kept in float32 has one for each of its tensors


@contextlib.contextmanager
def build_reporter(*, quiet: bool) -> Iterator[Reporter]:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if quiet:
        yield SilentReporter()
    elif not console.is_terminal:
        yield _Lines(console)
    else:
        with _progress(console) as progress:
            yield _Live(console, progress)


@contextlib.contextmanager
def reading_reporter(name: str, *, quiet: bool) -> Iterator[Callable[[int, int, str], None] | None]:
    """A live line on a terminal while files are read, nothing elsewhere."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if quiet or not console.is_terminal:
        yield None
        return
    with _progress(console) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total, unit: progress.update(task, completed=done, total=total, unit=unit)


def _progress(console: Console) -> Progress:
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description}"), BarColumn(20), _Rate(), _Memory(), *times)
    return Progress(*columns, console=console, transient=True)


class _Lines:
    """One line as a step starts would double the output; one as it ends says all."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._count = self._step = ""
        self._begun = self._said = 0.0

    def started(self, step: str, number: int, count: int) -> None:
        self._count, self._step = f"[{number}/{count}]", step
        self._begun = self._said = self._clock()

    def advanced(self, done: int, total: int, unit: str) -> None:
        now = self._clock()
        if now - self._said < _QUIET_S or done >= total:
            return
        self._said = now
        how_far = f"{shown_bytes(done)} of {shown_bytes(total)}" if unit == "B" else f"{done} of {total} {unit}"
        minutes = f"{(now - self._begun) / 60:.0f} min"
        self._console.print(f"{self._count} {self._step:20} {how_far} after {minutes}", markup=False)

    def ended(self, report: StepReport) -> None:
        self._console.print(f"{self._count} {_line(report)}", markup=False)
        for note in report.notes[:_NOTES]:
            self._console.print(f"  {note}", markup=False)
        if len(report.notes) > _NOTES:
            self._console.print(
                f"  and {len(report.notes) - _NOTES} more like these; --json has them all", markup=False
            )


class _Live(_Lines):
    def __init__(self, console: Console, progress: Progress) -> None:
        super().__init__(console)
        self._progress = progress
        self._task: TaskID | None = None

    def started(self, step: str, number: int, count: int) -> None:
        super().started(step, number, count)
        self._task = self._progress.add_task(f"{self._count.replace('[', '(').replace(']', ')')} {step}", total=None)

    def advanced(self, done: int, total: int, unit: str) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total, unit=unit)

    def ended(self, report: StepReport) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        super().ended(report)


def _line(report: StepReport) -> str:
    if report.outcome == "left":
        return f"{report.step:20} left   {report.reason}"
    # Of a few bytes, or of what is done in a blink, the rate says nothing.
    telling = report.outcome == "built" and report.seconds >= 1 and report.output_bytes >= 10_000_000
    work = f", {shown_bytes(report.output_bytes / report.seconds)}/s" if telling else ""
    peak = f", peak {shown_bytes(report.peak_rss_bytes)}"
    return f"{report.step:20} {report.outcome:6} {report.seconds:.1f} s, {shown_bytes(report.output_bytes)}{work}{peak}"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        unit = task.fields.get("unit")
        if unit is None or task.speed is None:
            return Text("")
        return Text(f"{shown_bytes(task.speed)}/s" if unit == "B" else f"{task.speed:.1f} {unit}/s")


class _Memory(ProgressColumn):
    def render(self, task: Task) -> Text:
        memory = process_memory()
        return Text(f"memory {shown_bytes(memory.rss_bytes)}, peak {shown_bytes(memory.peak_rss_bytes)}")
