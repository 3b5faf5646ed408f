"""The limits that a good request keeps: ``ttft=500ms,tbt=50ms,e2e=5s``, or any of the three."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from nvlm_trt.errors import UsageError
from nvlm_trt.load.record import Record

__all__ = ["Objective", "is_good", "read_objective"]

Objective = Mapping[Literal["ttft", "tbt", "e2e"], float]

_LIMIT = re.compile(r"(ttft|tbt|e2e)=(\d+(?:\.\d+)?)(ms|s)")


def read_objective(text: str) -> dict[Literal["ttft", "tbt", "e2e"], float]:
    """Limits in milliseconds; an empty text has none. Raises ``UsageError`` E-LOAD-OBJECTIVE."""
    limits: dict[Literal["ttft", "tbt", "e2e"], float] = {}
    for part in text.split(",") if text else ():
        found = _LIMIT.fullmatch(part.strip())
        if not found or found[1] in limits or not float(found[2]):
            what = f"{part.strip()!r} is not a limit, or is given twice."
            raise UsageError("E-LOAD-OBJECTIVE", what, "Write limits as ttft=500ms,tbt=50ms,e2e=5s.")
        limits[found[1]] = float(found[2]) * (1000 if found[3] == "s" else 1)  # type: ignore[index]
    return limits


def is_good(record: Record, objective: Objective) -> bool:
    """A whole answer within every limit. An answer of one token has no time between tokens and keeps that limit."""
    if record.code is not None:
        return False
    times = {"ttft": record.ttft_ms, "tbt": record.tbt_ms, "e2e": record.e2e_ms}
    return all((times[name] or 0.0) <= limit for name, limit in objective.items())
