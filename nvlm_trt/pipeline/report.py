"""What a build reports: events while it runs, one frozen result at its end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from nvlm_trt.pipeline.manifest import StepEntry
from nvlm_trt.pipeline.memory import process_memory
from nvlm_trt.pipeline.step import Step

__all__ = ["BuildResult", "ByteCounter", "Outcome", "Reporter", "SilentReporter", "StepReport", "done_report"]

Outcome = Literal["built", "kept", "left", "would build"]


@dataclass(frozen=True, slots=True)
class StepReport:
    """How one step ended.

    ``built``: it ran. ``kept``: its key and outputs were there. ``left``: this machine cannot; ``reason`` says why and
    ``command`` does it inside the container. ``would build``: what a dry run says of a step that is due. ``notes`` are
    sentences of a step that ran on what was not as expected.
    """

    step: str
    outcome: Outcome
    seconds: float = 0.0
    peak_rss_bytes: int = 0
    output_bytes: int = 0
    outputs: tuple[str, ...] = ()
    reason: str = ""
    command: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "outcome": self.outcome,
            "seconds": round(self.seconds, 3),
            "peak_rss_bytes": self.peak_rss_bytes,
            "output_bytes": self.output_bytes,
            "outputs": list(self.outputs),
            "reason": self.reason,
            "command": list(self.command),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class BuildResult:
    """``finish_command`` is the one command that does everything that is left, or empty.

    ``whole`` is whether all of the recipe's steps were asked for.
    """

    out: Path
    recipe: str
    dry_run: bool
    steps: tuple[StepReport, ...]
    finish_command: tuple[str, ...] = ()
    whole: bool = True

    @property
    def left(self) -> tuple[StepReport, ...]:
        return tuple(report for report in self.steps if report.outcome == "left")

    def to_json(self) -> dict[str, Any]:
        return {
            "format": 1,
            "out": str(self.out),
            "recipe": self.recipe,
            "dry_run": self.dry_run,
            "complete": self.whole and not self.left and not self.dry_run,
            "steps": [report.to_json() for report in self.steps],
            "finish_command": list(self.finish_command),
        }


class Reporter(Protocol):
    def started(self, step: str, number: int, count: int) -> None: ...

    def advanced(self, done: int, total: int, unit: str) -> None: ...

    def ended(self, report: StepReport) -> None: ...


class SilentReporter:
    def started(self, step: str, number: int, count: int) -> None:
        pass

    def advanced(self, done: int, total: int, unit: str) -> None:
        pass

    def ended(self, report: StepReport) -> None:
        pass


class ByteCounter:
    """Adds up bytes for a reporter."""

    def __init__(self, reporter: Reporter, total: int) -> None:
        self._reporter = reporter
        self._total = total
        self._done = 0

    def __call__(self, count: int) -> None:
        self._done += count
        self._reporter.advanced(self._done, self._total, "B")


def done_report(
    step: Step, outcome: Literal["built", "kept"], entry: StepEntry, start: float, notes: Sequence[str] = ()
) -> StepReport:
    """``start`` is when the step began, by the monotonic clock."""
    return StepReport(
        step.name,
        outcome,
        seconds=time.monotonic() - start,
        peak_rss_bytes=process_memory().peak_rss_bytes,
        output_bytes=sum(file.size for file in entry.outputs.values()),
        outputs=step.outputs,
        notes=tuple(notes),
    )
