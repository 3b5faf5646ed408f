"""What ``eval score --json`` printed, read again."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pydantic

from nvlm_trt.errors import UsageError
from nvlm_trt.load.result import Deployed

__all__ = ["PublishedScore", "ScoreFile", "ScoreInterval", "load_score"]


class _Form(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ScoreInterval(_Form):
    low: float
    high: float


class PublishedScore(_Form):
    model: str
    source: str
    score: float


class ScoreFile(_Form):
    """As ``scoring.Score``; ``deployment`` is what answered, where the run was told."""

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
        return ScoreFile.model_validate_json(file.read_bytes())
    except OSError:
        why = "it cannot be opened"
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        why = f"{'.'.join(str(part) for part in first['loc']) or 'its start'}: {first['msg']}"
    raise UsageError(
        "E-EVAL-OUTPUT", f"{file.name} is no score of this version: {why}.", "Score again: nvlm-trt eval score --json"
    )
