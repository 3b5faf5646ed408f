"""What is off costs nothing, and invalid settings are refused."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from nvlm_trt.errors import UsageError
from nvlm_trt.telemetry.journal import Journal
from nvlm_trt.telemetry.settings import TelemetrySettings
from tests.telemetry.collector import collecting

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OFF = """
import sys
import nvlm_trt.gateway.app, nvlm_trt.cli.serve, nvlm_trt.serving.decoder_calls
from nvlm_trt.telemetry.journal import Journal
from nvlm_trt.telemetry.settings import TelemetrySettings

journal = Journal("gateway", TelemetrySettings.from_environment({}))
assert journal.begin("a", {}) is None
journal.span("b", {}, 0, 1)
journal.line("c")
journal.close()
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""


def test_nothing_is_imported_when_it_is_off():
    result = subprocess.run([sys.executable, "-c", OFF], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.parametrize("url", ["collector:4318", "ftp://collector/", "http://", "/v1/traces"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(UsageError, match="E-USAGE-TRACES"):
        TelemetrySettings.from_environment({"NVLM_TRT_OTLP_TRACES_ENDPOINT": url})


def test_spans_arrive_below_the_one_that_asked():
    with collecting() as collector:
        journal = Journal("vision_encoder", TelemetrySettings(traces_endpoint=collector.url))
        now = time.monotonic()
        journal.span("vision", {"traceparent": PARENT}, now - 0.5, now, tiles=7)
        journal.span("vision", {}, now - 0.5, now)
        journal.span("vision", {"traceparent": "00-zz-01"}, now - 0.5, now)
        journal.span("never begun", {"traceparent": PARENT}, None, now)
        journal.close()
    (span,) = collector.spans
    assert (span.name, span.part, span.attributes) == ("vision", "nvlm-trt.vision_encoder", {"nvlm.tiles": 7})
    assert (span.trace_id, span.parent_id) == tuple(PARENT.split("-")[1:3])
    assert span.ended_ns - span.begun_ns == pytest.approx(0.5e9, rel=0.01)
    assert abs(span.ended_ns - time.time_ns()) < 10e9


def test_who_asks_not_to_be_traced_is_not():
    with collecting() as collector:
        journal = Journal("gateway", TelemetrySettings(traces_endpoint=collector.url))
        span = journal.begin("chat.completion", {"traceparent": PARENT[:-2] + "00"})
        assert span is not None
        assert span.headers["traceparent"].endswith("-00")
        journal.span("intake", span.headers, 0.0, 1.0)
        span.end(status=200)
        journal.close()
    assert collector.spans == []


def test_a_collector_that_is_away_holds_nothing_up():
    journal = Journal("gateway", TelemetrySettings(traces_endpoint="http://127.0.0.1:9/v1/traces"))
    begun = time.monotonic()
    for _ in range(1000):
        journal.span("intake", {"traceparent": PARENT}, 0.0, 1.0)
    assert time.monotonic() - begun < 2
    journal.close()
