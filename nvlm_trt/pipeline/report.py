"""What a build tells: events while it runs, one frozen result at its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

__all__ = ["BuildResult", "Outcome", "Reporter", "SilentReporter", "StepReport"]

Outcome = Literal["built", "kept", "left", "would build"]


@dataclass(frozen=True, slots=True)
class StepReport:
    """How one step ended.

    ``built``: it ran. ``kept``: its key and outputs were there. ``left``: this machine cannot; ``reason`` says why and
    ``command`` does it inside the container. ``would build``: a dry run's word for a step that is due.
    """

    step: str
    outcome: Outcome
    seconds: float = 0.0
    peak_rss_bytes: int = 0
    output_bytes: int = 0
    outputs: tuple[str, ...] = ()
    reason: str = ""
    command: tuple[str, ...] = ()

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
        }


@dataclass(frozen=True, slots=True)
class BuildResult:
    """``finish_command`` is the one command that does everything that is left, or empty."""

    out: Path
    recipe: str
    dry_run: bool
    steps: tuple[StepReport, ...]
    finish_command: tuple[str, ...] = ()

    @property
    def left(self) -> tuple[StepReport, ...]:
        return tuple(report for report in self.steps if report.outcome == "left")

    def to_json(self) -> dict[str, Any]:
        return {
            "format": 1,
            "out": str(self.out),
            "recipe": self.recipe,
            "dry_run": self.dry_run,
            "complete": not self.left and not self.dry_run,
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
