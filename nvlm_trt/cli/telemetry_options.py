"""Where a server's parts tell of requests, the same options for both commands that run one."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from nvlm_trt.telemetry.settings import REQUEST_LOG, TRACES_ENDPOINT, TelemetrySettings

__all__ = ["telemetry_options"]

F = TypeVar("F", bound=Callable[..., Any])


def telemetry_options(command: F) -> F:
    """Adds the options. While the command runs, what was chosen is in the environment, where its own parts and those
    that it starts find it; the command itself gets nothing."""

    @click.option(
        "--request-log",
        type=click.Path(path_type=Path),
        envvar=REQUEST_LOG,
        show_envvar=True,
        help="Append a line of JSON to this file for what each part of the server did for a request.",
    )
    @click.option(
        "--otlp-traces-endpoint",
        metavar="URL",
        envvar=TRACES_ENDPOINT,
        show_envvar=True,
        help="Send OpenTelemetry traces of requests to this address, by OTLP over HTTP.",
    )
    @functools.wraps(command)
    def wrapped(*args: Any, request_log: Path | None, otlp_traces_endpoint: str | None, **kwargs: Any) -> Any:
        # Triton's models run in another folder.
        chosen = TelemetrySettings(request_log and request_log.absolute(), otlp_traces_endpoint)
        before = dict(os.environ)
        os.environ[REQUEST_LOG] = str(chosen.request_log or "")
        os.environ[TRACES_ENDPOINT] = chosen.traces_endpoint or ""
        try:
            return command(*args, **kwargs)
        finally:
            for name in (REQUEST_LOG, TRACES_ENDPOINT):
                os.environ.pop(name)
                if name in before:
                    os.environ[name] = before[name]

    return wrapped  # type: ignore[return-value]
