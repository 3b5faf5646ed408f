"""A request followed from the door to the decoder and back, by its name in the log and by its trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from nvlm_trt.client import AskOptions, GrpcClient, HttpClient
from nvlm_trt.deploy.server import TritonServer
from nvlm_trt.gateway.server import GatewayServer
from nvlm_trt.gateway.settings import GatewaySettings
from nvlm_trt.telemetry.settings import REQUEST_LOG, TRACES_ENDPOINT, TelemetrySettings
from tests.gateway.conftest import picture_part, text_part, user
from tests.gateway.raw import GOOD, Told, connect, request_bytes, send
from tests.telemetry.collector import Collector, collecting
from tests.triton.test_cancel import wait_until
from tests.triton.test_embedding_cache import new_picture

MODELS = ("preprocessing", "vision_encoder", "tensorrt_llm", "postprocessing")
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Watched:
    server: TritonServer
    door: GatewayServer
    log: Path
    collector: Collector

    def entries(self, name: str) -> list[dict[str, object]]:
        """As grep has it."""
        lines = [line for line in self.log.read_text(encoding="ascii").splitlines() if name in line]
        return [json.loads(line) for line in lines]

    def parts(self, name: str) -> dict[str, dict[str, object]]:
        return {str(entry["part"]): entry for entry in self.entries(name)}


@pytest.fixture(scope="module")
def watched(deployment, small_checkpoint, tmp_path_factory) -> Iterator[Watched]:
    log = tmp_path_factory.mktemp("telemetry") / "requests.jsonl"
    with collecting() as collector, pytest.MonkeyPatch.context() as patch:
        patch.setenv(REQUEST_LOG, str(log))
        patch.setenv(TRACES_ENDPOINT, collector.url)
        settings = GatewaySettings(port=0, telemetry=TelemetrySettings.from_environment())
        with TritonServer(deployment, small_checkpoint) as server, GatewayServer(settings, server.grpc_url) as door:
            yield Watched(server, door, log, collector)


def ask(watched: Watched, name: str, **options) -> Told:
    question = user(picture_part(new_picture()), text_part("What is shown?"))
    body = {**GOOD, "messages": [question], "ignore_eos": True, "max_tokens": 5, **options}
    return send(watched.door.url, body, headers={"X-Request-Id": name, "Traceparent": PARENT})


def test_one_search_finds_what_every_part_did(watched: Watched):
    told = ask(watched, "follow-me")
    assert told.headers["x-request-id"] == "follow-me"
    assert wait_until(lambda: set(watched.parts("follow-me")) == {"gateway", *MODELS})
    parts = watched.parts("follow-me")
    prompt = told.json["usage"]["prompt_tokens"]
    assert parts["gateway"].items() >= {
        "status": 200, "pictures": 1, "choices": 1, "prompt_tokens": prompt, "generated_tokens": 5
    }.items()  # fmt: skip
    assert parts["preprocessing"].items() >= {"pictures": 1, "prompt_tokens": prompt}.items()
    assert parts["vision_encoder"]["tiles"] == parts["preprocessing"]["tiles"]
    assert parts["tensorrt_llm"].items() >= {
        "reason": "length", "prompt_tokens": prompt, "generated_tokens": 5
    }.items()  # fmt: skip
    assert {entry["request"] for entry in watched.entries("follow-me")} == {f"follow-me.{told.json['id']}"}


def test_a_refusal_is_found_where_it_was_made(watched: Watched):
    told = ask(watched, "no-picture", messages=[user(picture_part(b"\xff\xd8\xff\xe0"), text_part("What?"))])
    assert told.status == 400
    assert wait_until(lambda: len(watched.parts("no-picture")) == 2)
    codes = {part: entry["error"] for part, entry in watched.parts("no-picture").items()}
    assert codes == {"gateway": told.code, "preprocessing": told.code}
    assert watched.parts("no-picture")["gateway"]["status"] == 400


def test_who_leaves_is_found_too(watched: Watched):
    with connect(watched.door.url) as client:
        client.sendall(
            request_bytes({**GOOD, "max_tokens": 900, "ignore_eos": True, "stream": True}, "X-Request-Id: gone")
        )
        assert client.recv(4096)
    assert wait_until(lambda: {"gateway", "tensorrt_llm"} <= set(watched.parts("gone.")))
    assert watched.parts("gone.")["gateway"]["status"] == 499
    assert watched.parts("gone.")["tensorrt_llm"]["reason"] == "abort"


def test_a_client_of_tritons_own_doors_cannot_forge_a_line(watched: Watched):
    """These doors take any id."""
    forged = 'x"}\n{"part": "gateway", "request": "forged\u2028\r\n'
    body = {"id": forged, "text_input": "Hi", "max_tokens": 2}
    with HttpClient(watched.server.http_url) as client, client._post("/v2/models/ensemble/generate", body) as told:
        assert "text_output" in json.loads(told.read())
    assert wait_until(lambda: set(watched.parts("forged")) == set(MODELS))
    assert {entry["request"] for entry in watched.entries("forged")} == {forged}


def test_a_trace_shows_where_the_time_went(watched: Watched):
    told = ask(watched, "traced")
    trace_id, parent = PARENT.split("-")[1:3]
    names = {"chat.completion", "intake", "admission", "preprocessing", "vision", "queue", "prefill", "decode"}

    def mine():
        spans = watched.collector.spans
        roots = [span for span in spans if span.attributes.get("gen_ai.response.id") == told.json["id"]]
        return {span.name: span for root in roots for span in spans if root.span_id in (span.span_id, span.parent_id)}

    assert wait_until(lambda: set(mine()) == names)
    spans = mine()
    root = spans["chat.completion"]
    assert {span.trace_id for span in spans.values()} == {trace_id}
    assert root.parent_id == parent
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["gen_ai.usage.input_tokens"] == told.json["usage"]["prompt_tokens"]
    assert (
        root.attributes["gen_ai.usage.output_tokens"] == spans["decode"].attributes["gen_ai.usage.output_tokens"] == 5
    )
    assert spans["prefill"].attributes["gen_ai.usage.input_tokens"] == told.json["usage"]["prompt_tokens"]
    assert spans["vision"].attributes["nvlm.tiles"] > 1
    order = [spans[name] for name in ("intake", "preprocessing", "vision", "queue", "prefill", "decode")]
    slack_ns = 2_000_000  # each process reads two clocks, one after the other
    assert all(one.ended_ns <= next.begun_ns + slack_ns for one, next in pairwise(order))
    assert root.begun_ns - slack_ns <= order[0].begun_ns
    assert order[-1].ended_ns <= root.ended_ns + slack_ns
    assert not any(span.failed for span in spans.values())


def test_without_a_door_a_client_may_name_its_trace_to_triton(watched: Watched):
    """And nothing else than the two names of a trace's context."""
    context = f"00-{'ab' * 16}-{'cd' * 8}-01"
    body = {"text_input": "Hi", "max_tokens": 2, "traceparent": context}
    with HttpClient(watched.server.http_url) as client, client._post("/v2/models/ensemble/generate", body) as told:
        assert "text_output" in json.loads(told.read())
    assert wait_until(lambda: {"vision", "decode"} <= set(watched.collector.of("ab" * 16)))
    with GrpcClient(watched.server.grpc_url) as grpc:
        assert grpc.ask("Hi", (), AskOptions(max_tokens=2)).output_tokens == 2
