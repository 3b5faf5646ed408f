"""Reads what ``eval score --json`` printed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from nvlm_trt.errors import UsageError
from nvlm_trt.load.form import BadForm, Form, read_form
from nvlm_trt.load.provenance import Deployed

__all__ = ["PublishedScore", "ScoreFile", "ScoreInterval", "load_score"]


class ScoreInterval(Form):
    low: float
    high: float


class PublishedScore(Form):
    model: str
    source: str
    score: float


class ScoreFile(Form):
    """As ``scoring.Score``; ``deployment`` is what answered, if the run was told."""

    format: Literal[1]
    task: str
    strict: bool
    value: float
    interval: ScoreInterval
    records: int
    expected: int | None
    duplicates: int
    errors: int
    empty: int
    groups: dict[str, tuple[float, int]]
    column: str
    published: tuple[PublishedScore, ...]
    merged: str
    deployment: Deployed | None = None


def load_score(file: Path) -> ScoreFile:
    """Raises ``UsageError`` E-EVAL-OUTPUT."""
    try:
        return read_form(ScoreFile, file)
    except BadForm as why:
        raise UsageError(
            "E-EVAL-OUTPUT",
            f"{file.name} is not a score of this version: {why}.",
            "Score again: nvlm-trt eval score --json",
        ) from None
