"""Published results: the tables of NVLM's model cards and paper, to compare a run with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["PublishedRow", "published"]


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """``scores`` by column, in percent; OCRBench in points of 1000, CIDEr in none."""

    model: str
    source: str
    scores: Mapping[str, float]


@cache
def published() -> tuple[PublishedRow, ...]:
    content = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
    return tuple(PublishedRow(**row) for row in content["rows"])
