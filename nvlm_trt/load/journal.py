"""The requests file: a measurement as it goes on, one JSON object a line.

    {"measurement": {...}}    once: everything of the result but its points
    {"run": {...}}            a run begins: its point, its repetition, what is planned
    {"request": {...}}        a request has ended, well or not
    {"run_end": {...}}        a run is over: the generator's and the server's figures
    {"check": {...}}          a run's answers were compared

The result is made of these lines and of nothing else. So a process that is killed leaves all it measured, and
``read_journal`` makes a result of it whose last run says that it was cut off.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import pydantic

from nvlm_trt.checkpoint.disk import writing
from nvlm_trt.load.failures import bad_result
from nvlm_trt.load.form import first_fault
from nvlm_trt.load.record import Record
from nvlm_trt.load.result import Check, Measurement, Point
from nvlm_trt.load.run_log import RunEnd, RunStart
from nvlm_trt.load.summary import summarize_run, summarize_runs

__all__ = ["Journal", "read_journal"]


class _Checked(Check):
    """``run`` counts all runs of the measurement."""

    run: int


@dataclass(slots=True)
class _Run:
    start: RunStart
    records: list[Record] = field(default_factory=list)
    end: RunEnd = field(default_factory=RunEnd)
    check: Check | None = None


@dataclass(slots=True)
class _Log:
    """The events so far. ``head`` is a measurement without points."""

    head: Measurement | None = None
    runs: list[_Run] = field(default_factory=list)

    def measurement(self) -> Measurement:
        assert self.head is not None
        points: dict[int, list[_Run]] = {}
        for run in self.runs:
            points.setdefault(run.start.point, []).append(run)
        return self.head.model_copy(update={"points": tuple(map(self._point, points.values()))})

    def _point(self, runs: list[_Run]) -> Point:
        assert self.head is not None
        objective = self.head.experiment.objective
        done = tuple(summarize_run(run.start, run.records, run.end, run.check, objective) for run in runs)
        return Point(load=runs[0].start.load, runs=done, summary=summarize_runs(done))


class Journal:
    """Keeps a measurement and, if there is a ``file``, writes it down; ``close`` it.

    Raises ``BuildError`` E-BUILD-WRITE, E-BUILD-SPACE.
    """

    def __init__(self, head: Measurement, file: Path | None) -> None:
        self._log = _Log(head)
        self._name = file.name if file else ""
        self._file: TextIO | None = None
        if file:
            with writing(self._name):
                file.parent.mkdir(parents=True, exist_ok=True)
                self._file = file.open("w", encoding="utf-8")
        self._write("measurement", head.model_dump(mode="json"))

    def run(self, start: RunStart) -> None:
        self._log.runs.append(_Run(start))
        self._write("run", start.model_dump(mode="json"))

    def request(self, record: Record) -> None:
        self._log.runs[-1].records.append(record)
        self._write("request", record.to_json())

    def run_end(self, end: RunEnd) -> None:
        self._log.runs[-1].end = end
        self._write("run_end", end.model_dump(mode="json"))

    def check(self, run: int, check: Check) -> None:
        """Of the ``run``-th run of all."""
        self._log.runs[run].check = check
        self._write("check", {"run": run, **check.model_dump(mode="json")})

    def measurement(self) -> Measurement:
        """As far as it has come."""
        return self._log.measurement()

    def close(self) -> None:
        if self._file:
            self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, name: str, data: dict[str, Any]) -> None:
        if self._file:
            with writing(self._name):
                self._file.write(json.dumps({name: data}) + "\n")
                self._file.flush()


def read_journal(file: Path) -> Measurement:
    """Raises ``UsageError`` E-LOAD-RESULT. A torn last line is left out: its process died while it wrote it."""
    try:
        data = file.read_bytes()
    except OSError:
        raise bad_result(file.name, "it cannot be opened") from None
    log = _Log()
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        try:
            ((name, event),) = json.loads(line).items()
            _READ[name](log, event)
        except pydantic.ValidationError as error:
            raise bad_result(file.name, f"line {number}: {first_fault(error)}") from None
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            raise bad_result(file.name, f"line {number} is none of its events") from None
    if log.head is None:
        raise bad_result(file.name, "it has no first line")
    return log.measurement()


def _read_head(log: _Log, event: Any) -> None:
    log.head = Measurement.model_validate_json(json.dumps(event))


def _read_run(log: _Log, event: Any) -> None:
    log.runs.append(_Run(RunStart.model_validate(event)))


def _read_request(log: _Log, event: Any) -> None:
    log.runs[-1].records.append(Record.from_json(event))


def _read_run_end(log: _Log, event: Any) -> None:
    log.runs[-1].end = RunEnd.model_validate(event)


def _read_check(log: _Log, event: Any) -> None:
    checked = _Checked.model_validate_json(json.dumps(event))
    log.runs[checked.run].check = Check(**checked.model_dump(exclude={"run"}))


_READ: dict[str, Callable[[_Log, Any], None]] = {
    "measurement": _read_head,
    "run": _read_run,
    "request": _read_request,
    "run_end": _read_run_end,
    "check": _read_check,
}
