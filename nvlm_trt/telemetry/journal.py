"""One part's log and tracer together. A library is imported only if it is used; what is off costs one comparison."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from nvlm_trt.errors import MissingToolError
from nvlm_trt.telemetry.request_log import Fact, RequestLog
from nvlm_trt.telemetry.settings import TelemetrySettings

if TYPE_CHECKING:
    from nvlm_trt.telemetry.traces import RequestSpan, Tracer

__all__ = ["Journal"]


class Journal:
    """Raises ``UsageError`` E-USAGE-LOG, ``MissingToolError`` E-TOOL-TRACES."""

    def __init__(self, part: str, settings: TelemetrySettings) -> None:
        self._log = RequestLog(settings.request_log, part) if settings.request_log else None
        self._tracer = _tracer(settings.traces_endpoint, part) if settings.traces_endpoint else None

    @property
    def logs(self) -> bool:
        return self._log is not None

    @property
    def traces(self) -> bool:
        return self._tracer is not None

    def line(self, request_id: str, **facts: Fact) -> None:
        if self._log is not None:
            self._log.write(request_id, facts)

    def begin(self, name: str, headers: Mapping[str, str]) -> RequestSpan | None:
        return self._tracer.begin(name, headers) if self._tracer is not None else None

    def span(
        self, name: str, headers: Mapping[str, str], begun_s: float | None, ended_s: float | None, **facts: Fact
    ) -> None:
        """Nothing is recorded for a span whose beginning or end is None. Times are of ``time.monotonic``."""
        if self._tracer is not None and begun_s is not None and ended_s is not None:
            with suppress(Exception):  # the request is answered, whatever the library objects to
                self._tracer.span(name, headers, begun_s, ended_s, **facts)

    def close(self) -> None:
        if self._tracer is not None:
            self._tracer.close()
        if self._log is not None:
            self._log.close()


def _tracer(endpoint: str, part: str) -> Tracer:
    try:
        from nvlm_trt.telemetry.traces import Tracer
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("nvlm_trt"):
            raise
        raise MissingToolError(
            "E-TOOL-TRACES", "OpenTelemetry is not installed.", "Install it: pip install 'nvlm-trt[traces]'"
        ) from None
    return Tracer(endpoint, part)
