"""What a Triton model records of one request in its journal. Only importable inside a Triton model process.

Where nothing is recorded, a request is not even asked for its id.
"""

from __future__ import annotations

import time
from typing import Any

from nvlm_trt.errors import NvlmError
from nvlm_trt.serving.triton import read_id, read_parameters
from nvlm_trt.telemetry.journal import Journal
from nvlm_trt.telemetry.request_log import Fact
from nvlm_trt.telemetry.settings import TelemetrySettings

__all__ = ["Note", "open_journal"]


def open_journal(part: str) -> Journal:
    """The journal that the server's environment asks for. Raises what ``Journal`` and ``TelemetrySettings`` do."""
    return Journal(part, TelemetrySettings.from_environment())


class Note:
    """Made when a request arrives; afterwards Triton's request is not used. ``name`` is its span's."""

    def __init__(self, name: str, journal: Journal, request: Any) -> None:
        self._name = name
        self._journal = journal
        self._begun_s = time.monotonic()
        self._id = ""
        self.trace: dict[str, str] = {}
        try:
            if journal.logs:
                self._id = read_id(request)
            if journal.traces:
                given = read_parameters(request)
                self.trace = {name: str(given[name]) for name in ("traceparent", "tracestate") if name in given}
        except NvlmError:
            pass  # not UTF-8: the model refuses it itself

    def done(self, **facts: Fact) -> None:
        now_s = time.monotonic()
        self._journal.line(self._id, seconds=now_s - self._begun_s, **facts)
        self._journal.span(self._name, self.trace, self._begun_s, now_s, **facts)

    def failed(self, error: BaseException) -> None:
        self.done(error=error.code if isinstance(error, NvlmError) else "E-SERVER-INTERNAL")
