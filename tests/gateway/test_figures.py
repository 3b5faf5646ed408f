"""Both pages of figures after traffic that is known to the last token."""

from __future__ import annotations

import re
import time
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nvlm_trt.gateway.server import GatewayServer
from nvlm_trt.gateway.settings import GatewaySettings
from tests.gateway.conftest import picture_part, text_part, user
from tests.gateway.raw import GOOD, connect, request_bytes, send
from tests.triton.test_cancel import running, wait_until
from tests.triton.test_embedding_cache import new_picture

TO_THE_END = {**GOOD, "ignore_eos": True}
STREAM = {**TO_THE_END, "stream": True}


def scrape(url: str) -> Mapping[str, float]:
    """Every sample by its name and labels, 0 for what is not there."""
    with urllib.request.urlopen(url, timeout=5) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    samples: defaultdict[str, float] = defaultdict(float)
    for sample in (sample for family in families for sample in family.samples):
        labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
        samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


def settled(server) -> Mapping[str, float]:
    """The decoder brings its figures up to date ten times a second."""
    assert wait_until(lambda: running(server) == 0)
    time.sleep(0.3)
    return scrape(server.metrics_url)


@pytest.fixture(scope="module")
def traffic(server):
    """A stream that ends before its client is seen to have left, as on a busy machine, was not left: once more then."""
    for _ in range(4):
        figures = make_traffic(server)
        if figures[1]["nvlm_decoder_request_success_total{finished_reason=abort}"]:
            break
    return figures


def make_traffic(server):
    """What both pages said of: two streams, a whole answer, a picture asked about twice, two choices, a refusal, and a
    stream that is left. Figures of the server are differences, those of the gateway are all it has."""
    before = settled(server)
    asked = [{"role": "user", "content": f"Question {time.monotonic_ns()}?"}]
    picture = user(picture_part(new_picture()), text_part("What is shown?"))
    bodies = [
        {**STREAM, "max_tokens": 5},
        {**STREAM, "max_tokens": 6, "messages": asked},
        {**TO_THE_END, "max_tokens": 7},
        {**STREAM, "max_tokens": 4, "messages": [picture]},
        {**STREAM, "max_tokens": 4, "messages": [picture]},
        {**TO_THE_END, "max_tokens": 3, "n": 2, "temperature": 1},
        {**GOOD, "max_tokens": 0},
    ]
    with GatewayServer(GatewaySettings(port=0), server.grpc_url) as gateway:
        for body in bodies:
            send(gateway.url, body)
        cost = send(gateway.url, {**STREAM, "messages": [picture]}, path="/v1/chat/prompt").json
        good = send(gateway.url, GOOD, path="/v1/chat/prompt").json["prompt_tokens"]
        kept = settled(server)
        with connect(gateway.url) as client:
            client.sendall(request_bytes({**STREAM, "max_tokens": 800}))
            while b'"content":' not in client.recv(65536).replace(b'"content":""', b""):
                pass
        after = settled(server)
        assert wait_until(lambda: scrape(f"{gateway.url}/metrics")["nvlm_gateway_requests_total{status=499}"] == 1)
        door = scrape(f"{gateway.url}/metrics")
    return door, less(after, before), less(kept, before), cost, good


def less(after: Mapping[str, float], before: Mapping[str, float]) -> Mapping[str, float]:
    return defaultdict(float, {name: value - before[name] for name, value in after.items()})


def test_the_gateways(traffic):
    door, after, _, _, good = traffic
    figures = {name.removeprefix("nvlm_gateway_"): value for name, value in door.items()}
    assert {name: value for name, value in figures.items() if name.startswith("requests_total")} == {
        "requests_total{status=200}": 6,
        "requests_total{status=400}": 1,
        "requests_total{status=499}": 1,
    }
    assert figures["refusals_total{code=E-PARAM-RANGE}"] == 1
    assert figures["request_success_total{finished_reason=length}"] == 7
    assert figures["pictures_total{source=data}"] == 2
    assert figures["generation_tokens_total"] >= 5 + 6 + 7 + 4 + 4 + 2 * 3 + 1
    # The decoder read the question with two choices twice.
    assert figures["prompt_tokens_total"] == after["nvlm_decoder_tokens_total{kind=prompt}"] - good
    assert figures["time_to_first_token_seconds_count"] == 5
    assert figures["time_per_output_token_seconds_count"] == 4
    assert figures["request_queue_time_seconds_count"] == 7
    assert figures["e2e_request_latency_seconds_count"] == 8
    assert figures["num_requests_running"] == figures["num_requests_waiting"] == 0


def test_the_decoders(traffic):
    _, after, kept, _, _ = traffic
    figures = {name.removeprefix("nvlm_decoder_"): value for name, value in after.items()}
    assert figures["request_success_total{finished_reason=length}"] == 7
    assert figures["request_success_total{finished_reason=abort}"] == 1
    assert figures["request_success_total{finished_reason=stop}"] == 0
    for name in ("request_queue_time", "time_to_first_token", "time_per_output_token", "e2e_request_latency"):
        assert figures[f"{name}_seconds_count"] == figures[f"{name}_seconds_bucket{{le=+Inf}}"] == 8, name
    order = [
        figures[f"{name}_seconds_sum"] for name in ("request_queue_time", "time_to_first_token", "e2e_request_latency")
    ]
    assert order == sorted(order)
    assert order[0] > 0
    assert kept["nvlm_decoder_tokens_total{kind=generated}"] == 5 + 6 + 7 + 4 + 4 + 2 * 3
    tokens = {kind: kept[f"nvlm_decoder_tokens_total{{kind={kind}}}"] for kind in ("prompt", "reused", "prefill")}
    assert tokens["prompt"] == tokens["reused"] + tokens["prefill"]


def test_the_vision_encoders(traffic):
    _, after, kept, cost, _ = traffic
    figures = {name.removeprefix("nvlm_vision_"): value for name, value in after.items()}
    (picture,) = cost["pictures"]
    tiles = len(picture["tile_tags"])
    assert tiles > 1
    assert figures["request_tiles_count"] == 8
    assert figures["request_tiles_sum"] == 2 * tiles
    assert figures["request_tiles_bucket{le=0}"] == 6
    assert figures["queue_time_seconds_count"] == figures["calls_total"] == 1
    assert figures["cache_tiles_total{outcome=miss}"] == figures["cache_tiles_total{outcome=hit}"] == tiles
    # The second question about the picture finds at least half of it in the decoder.
    assert kept["nvlm_decoder_tokens_total{kind=reused}"] >= picture["tokens"] / 2


def test_memory_in_use_is_a_part_of_one(server):
    assert settled(server)["nvlm_decoder_kv_cache_usage_perc"] == 0


def test_the_page_of_the_docs_lists_what_is_served(server, gateway):
    send(gateway.url, GOOD)
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(nvlm_[a-z0-9_]+)(?:\{.*\})?` \| (gauge|counter|histogram) \|", text, re.MULTILINE))
    served: dict[str, str] = {}
    for url in (server.metrics_url, f"{gateway.url}/metrics"):
        with urllib.request.urlopen(url, timeout=5) as response:
            served |= dict(re.findall(r"^# TYPE (nvlm_\S+) (\S+)$", response.read().decode(), re.MULTILINE))
    # When a histogram of the gateway's library was made is of no use to anybody.
    assert {name: kind for name, kind in served.items() if not name.endswith("_created")} == listed
