"""The request log: one line of JSON for what a part of the server did for a request.

All parts append to the same file, with one write for each line on a descriptor opened for appending, so the lines of
several processes never mix. Whatever a client chose, above all its id, appears only inside a JSON string of ASCII
characters, so it can neither end nor begin a line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from nvlm_trt.errors import UsageError

__all__ = ["Fact", "RequestLog"]

Fact = str | int | float | None
_MOST_CHARACTERS = 256


class RequestLog:
    """Raises ``UsageError`` E-USAGE-LOG for a file that cannot be written."""

    def __init__(self, file: Path, part: str) -> None:
        self._part = part
        try:
            self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError:
            raise UsageError(
                "E-USAGE-LOG",
                f"The request log {file.name!r} cannot be written.",
                "Name a file in a folder that exists.",
            ) from None

    def write(self, request_id: str, facts: Mapping[str, Fact]) -> None:
        """Facts that are None are left out, seconds are rounded to microseconds and long texts are cut. A full disk
        loses lines, not answers."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        entry: dict[str, Fact] = {"time": now, "part": self._part, "request": request_id[:_MOST_CHARACTERS]}
        entry |= {name: _short(value) for name, value in facts.items() if value is not None}
        with suppress(OSError):
            os.write(self._descriptor, json.dumps(entry).encode() + b"\n")

    def close(self) -> None:
        os.close(self._descriptor)


def _short(value: Fact) -> Fact:
    if isinstance(value, float):
        return round(value, 6)
    return value[:_MOST_CHARACTERS] if isinstance(value, str) else value
