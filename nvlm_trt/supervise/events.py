"""The supervisor's log: one line for each event, as text or as JSON."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from typing import Any

__all__ = ["EventLog"]

_FAILURES = ("failed", "gave up")


class EventLog:
    """``write`` is called with each line. A JSON line is one object with ``time``, ``part``, ``event``, ``text`` and
    the event's details. With ``quiet`` only failures are logged.
    """

    def __init__(self, write: Callable[[str], None], *, as_json: bool = False, quiet: bool = False) -> None:
        self._write = write
        self._as_json = as_json
        self._quiet = quiet

    def __call__(self, part: str, event: str, text: str, **details: Any) -> None:
        if self._quiet and event not in _FAILURES:
            return
        # The only use of the wall clock: a line is read beside those of other programs.
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if self._as_json:
            self._write(json.dumps({"time": now, "part": part, "event": event, "text": text, **details}))
        else:
            self._write(f"{now} {part}: {text}")
