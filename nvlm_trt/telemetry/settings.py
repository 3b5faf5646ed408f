"""Where log lines and spans go. The environment carries this to the gateway and the models, which are processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from nvlm_trt.errors import UsageError

__all__ = ["REQUEST_LOG", "TRACES_ENDPOINT", "TelemetrySettings"]

REQUEST_LOG = "NVLM_TRT_REQUEST_LOG"
TRACES_ENDPOINT = "NVLM_TRT_OTLP_TRACES_ENDPOINT"


@dataclass(frozen=True, slots=True)
class TelemetrySettings:
    """``request_log`` is a file that all parts append to; ``traces_endpoint`` is an OTLP/HTTP address such as
    http://127.0.0.1:4318/v1/traces. Raises ``UsageError`` E-USAGE-TRACES for any other kind of address.
    """

    request_log: Path | None = None
    traces_endpoint: str | None = None

    def __post_init__(self) -> None:
        if self.traces_endpoint is not None:
            parts = urlsplit(self.traces_endpoint)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise UsageError(
                    "E-USAGE-TRACES",
                    f"{self.traces_endpoint[:200]!r} is not an address that traces can be sent to.",
                    "Give the collector's, such as http://127.0.0.1:4318/v1/traces.",
                )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> TelemetrySettings:
        log = environment.get(REQUEST_LOG)
        return cls(Path(log) if log else None, environment.get(TRACES_ENDPOINT) or None)
