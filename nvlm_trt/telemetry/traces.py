"""Spans to an OpenTelemetry collector, by OTLP over HTTP. Importing this module loads OpenTelemetry.

A span is created when it is over, with the times noted meanwhile, so it never delays an answer; a full queue drops
spans, not requests. Only a request's own span is created at its beginning, because the others need its id as their
parent. The context travels as W3C's ``traceparent``: from the client in a header, and to the models as a parameter of
the request, which Triton's ensemble hands to each of its steps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from nvlm_trt.telemetry.request_log import Fact

__all__ = ["RequestSpan", "Tracer"]

_SEND_EVERY_MS = 1000
_SEND_TIMEOUT_S = 2
_propagator = TraceContextTextMapPropagator()


class Tracer:
    """The tracer of one part of the server, whose name becomes the resource's ``service.name``."""

    def __init__(self, endpoint: str, part: str) -> None:
        # Not the process's global provider: a program that embeds this may have set its own.
        self._provider = TracerProvider(resource=Resource({SERVICE_NAME: f"nvlm-trt.{part}"}))
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_SEND_TIMEOUT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_SEND_EVERY_MS))
        self._tracer = self._provider.get_tracer("nvlm_trt")

    def begin(self, name: str, headers: Mapping[str, str]) -> RequestSpan:
        """Begin a request's own span, below the client's if ``headers`` name one."""
        span = self._tracer.start_span(name, context=_propagator.extract(headers, Context()), kind=SpanKind.SERVER)
        return RequestSpan(span)

    def span(self, name: str, headers: Mapping[str, str], begun_s: float, ended_s: float, **facts: Fact) -> None:
        """Record a span below the one that ``headers`` name, if they do. Times are of ``time.monotonic``."""
        context = _propagator.extract(headers, Context())
        if not context:
            return
        span = self._tracer.start_span(name, context=context, start_time=_wall_ns(begun_s))
        _describe(span, facts)
        span.end(_wall_ns(ended_s))

    def close(self) -> None:
        """Send what is left, within the time that one sending may take."""
        self._provider.shutdown()


class RequestSpan:
    def __init__(self, span: Span) -> None:
        self._span = span
        self.headers: dict[str, str] = {}
        _propagator.inject(self.headers, set_span_in_context(span, Context()))

    def end(self, **facts: Fact) -> None:
        _describe(self._span, facts)
        self._span.end()


# OpenTelemetry's own names where it has one.
_NAMES = {
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "generated_tokens": "gen_ai.usage.output_tokens",
    "model": "gen_ai.request.model",
    "response": "gen_ai.response.id",
    "status": "http.response.status_code",
    "error": "error.type",
}


def _describe(span: Span, facts: Mapping[str, Fact]) -> None:
    for name, value in facts.items():
        if value is not None:
            span.set_attribute(_NAMES.get(name, f"nvlm.{name}"), value)
    if facts.get("error"):
        span.set_status(Status(StatusCode.ERROR))


def _wall_ns(moment_s: float) -> int:
    return time.time_ns() - int((time.monotonic() - moment_s) * 1e9)
