"""The first output of ``serve --json`` and ``gateway --json``: the addresses that they serve at, or an error."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

__all__ = ["read_announcement"]


def read_announcement(lines: Iterable[str]) -> dict[str, Any]:
    """The one JSON object, whose last line is "}"; no line after it is read. Empty if the program ended without one."""
    text = ""
    for line in lines:
        text += line
        if line == "}\n":
            break
    announced: dict[str, Any] = json.loads(text or "{}")
    return announced
