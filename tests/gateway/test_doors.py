"""Keys, TLS, other sites' pages, limits, health and figures, over the real server."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from cryptography import x509

from nvlm_trt.errors import ServerError, UsageError
from nvlm_trt.gateway.server import GatewayServer
from nvlm_trt.gateway.settings import GatewaySettings, Limits
from tests.certificate import write_certificate
from tests.gateway.raw import GOOD, connect, request_bytes, send
from tests.triton.test_cancel import wait_until

KEYS = ("first-key-of-some-length", "second-key-of-some-length")


def openai_client(gateway, **options) -> Any:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", **options)


@pytest.fixture(scope="module")
def locked(server):
    settings = GatewaySettings(port=0, api_keys=KEYS, allow_origins=("https://page.example",), model_name="other")
    with GatewayServer(settings, server.grpc_url) as gateway:
        yield gateway


@pytest.mark.parametrize("key", KEYS)
def test_who_has_a_key_is_let_in(locked, key):
    told = send(locked.url, {**GOOD, "model": "other"}, headers={"Authorization": f"Bearer {key}"})
    assert told.status == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/chat/prompt", "/v1/models", "/v1/models/other"])
@pytest.mark.parametrize(
    "value", [None, "", "Bearer", "Bearer ", f"Basic {KEYS[0]}", f"Bearer {KEYS[0]}x", KEYS[0], f"Bearer  {KEYS[0]}"]
)
def test_who_has_none_is_not(locked, path, value):
    body = GOOD if "chat" in path else None
    told = send(locked.url, body, path=path, headers={} if value is None else {"Authorization": value})
    assert (told.status, told.code, told.json["error"]["type"]) == (401, "E-DOOR-KEY", "authentication_error")
    assert told.headers["www-authenticate"] == "Bearer"


def test_health_and_figures_need_no_key(locked):
    assert send(locked.url, path="/health").json == {"status": "ok"}
    assert send(locked.url, path="/metrics").status == 200


def test_pages_of_listed_sites_alone_are_allowed(locked, gateway):
    asking = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    told = send(locked.url, method="OPTIONS", headers=asking)
    assert told.headers["access-control-allow-origin"] == "https://page.example"
    other = send(locked.url, method="OPTIONS", headers={**asking, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers
    off = send(gateway.url, method="OPTIONS", headers=asking)
    assert (off.status, off.headers["allow"]) == (405, "POST")
    assert not any(name.startswith("access-control") for name in off.headers)
    assert "access-control-allow-origin" not in send(gateway.url, GOOD, headers=asking).headers


def test_a_base_url_without_v1_is_told_where_the_api_is(gateway):
    with openai.OpenAI(base_url=gateway.url, api_key="none") as client, pytest.raises(openai.NotFoundError) as missed:
        client.models.list()
    assert "v1/chat/completions" in missed.value.message


def test_tls(server, tmp_path):
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_certificate(*files, x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    settings = GatewaySettings(port=0, tls_cert=files[0], tls_key=files[1])
    with GatewayServer(settings, server.grpc_url) as gateway:
        assert gateway.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(files[0]))
        http = openai.DefaultHttpxClient(verify=context)
        with openai_client(gateway, http_client=http) as chat:
            assert chat.chat.completions.create(**GOOD).usage.completion_tokens == 4
    for pair in ((files[0], files[0]), (tmp_path / "nowhere", files[1])):
        with pytest.raises(UsageError, match="E-USAGE-TLS"):
            GatewayServer(GatewaySettings(port=0, tls_cert=pair[0], tls_key=pair[1]), server.grpc_url)


def test_beyond_what_runs_and_waits_is_refused_at_once(server):
    limits = Limits(answers=1, waiting=1)
    long = {**GOOD, "max_tokens": 900, "ignore_eos": True}
    with (
        GatewayServer(GatewaySettings(port=0, limits=limits), server.grpc_url) as gateway,
        ThreadPoolExecutor(3) as pool,
    ):
        with connect(gateway.url) as first:
            first.sendall(request_bytes({**long, "stream": True}))
            assert first.recv(4096)
            second = pool.submit(send, gateway.url, GOOD)
            while b"num_requests_waiting 1.0" not in send(gateway.url, path="/metrics").body:
                time.sleep(0.01)
            third = send(gateway.url, GOOD)
            assert not second.done()
            assert (third.status, third.code, third.headers["retry-after"]) == (429, "E-BUSY-DOOR", "1")
            assert third.json["error"]["type"] == "rate_limit_error"
        assert second.result().status == 200


def test_who_waits_too_long_is_refused(server):
    limits = Limits(answers=1, queue_s=0.1)
    with (
        GatewayServer(GatewaySettings(port=0, limits=limits), server.grpc_url) as gateway,
        connect(gateway.url) as first,
    ):
        first.sendall(request_bytes({**GOOD, "max_tokens": 900, "ignore_eos": True, "stream": True}))
        assert first.recv(4096)
        told = send(gateway.url, GOOD)
        assert (told.status, told.code) == (429, "E-BUSY-DOOR")


def test_openais_client_tries_again_by_itself(server):
    settings = GatewaySettings(port=0, limits=Limits(answers=1, waiting=1))
    with GatewayServer(settings, server.grpc_url) as gateway, openai_client(gateway, max_retries=8) as chat:

        def ask(_: int) -> str:
            completion = chat.chat.completions.create(**{**GOOD, "max_tokens": 100})
            return str(completion.choices[0].finish_reason)

        with ThreadPoolExecutor(3) as pool:
            assert set(pool.map(ask, range(3))) == {"length"}


def test_openais_client_knows_what_it_was_refused_for(server):
    settings = GatewaySettings(port=0, api_keys=KEYS, limits=Limits(answers=1, waiting=1))
    with GatewayServer(settings, server.grpc_url) as gateway, ThreadPoolExecutor(3) as pool:
        base = f"{gateway.url}/v1"
        with (
            openai.OpenAI(base_url=base, api_key=KEYS[1], max_retries=0) as chat,
            openai.OpenAI(base_url=base, api_key="a-key-that-nobody-gave", max_retries=0) as stranger,
        ):
            assert chat.models.list().data[0].id == "nvlm-d"
            with pytest.raises(openai.AuthenticationError) as refused:
                stranger.chat.completions.create(**GOOD)
            assert refused.value.code == "E-DOOR-KEY"

            def ask_long(_: int) -> object:
                long = {**GOOD, "max_tokens": 900, "extra_body": {"ignore_eos": True}}
                return chat.chat.completions.create(**long)

            asked = [pool.submit(ask_long, number) for number in range(3)]
            (busy,) = (error for one in asked if (error := one.exception()) is not None)
            assert isinstance(busy, openai.RateLimitError)
            assert busy.response.headers["retry-after"] == "1"


def test_health_asks_the_ensemble_and_says_no_when_nobody_answers(gateway):
    assert send(gateway.url, path="/health").json == {"status": "ok"}
    with GatewayServer(GatewaySettings(port=0), "grpc://127.0.0.1:9") as lost:
        told = send(lost.url, path="/health")
        assert (told.status, told.json["status"], told.code) == (503, "failed", "E-SERVER-UNREACHABLE")
        asked = send(lost.url, GOOD)
        assert (asked.status, asked.code) == (502, "E-SERVER-UNREACHABLE")
        assert wait_until(lambda: b"num_requests_running 0.0" in send(lost.url, path="/metrics").body)


def test_health_asks_no_more_than_once_a_second(server, gateway):
    def requests() -> int:
        with urllib.request.urlopen(server.metrics_url, timeout=5) as response:
            text = response.read().decode()
        found = re.search(r'^nv_inference_request_success\{model="preprocessing".*\} (\d+)', text, re.MULTILINE)
        assert found
        return int(found[1])

    time.sleep(1.1)
    before = requests()
    with ThreadPoolExecutor(8) as pool:
        assert {told.status for told in pool.map(lambda _: send(gateway.url, path="/health"), range(40))} == {200}
    assert requests() - before == 1
    send(gateway.url, GOOD)
    send(gateway.url, path="/health")
    assert requests() - before == 2


def test_figures_have_the_names_that_dashboards_look_for(server):
    with GatewayServer(GatewaySettings(port=0), server.grpc_url) as gateway:
        for body in (GOOD, {**GOOD, "stream": True}, {**GOOD, "stop": "never said"}, {**GOOD, "max_tokens": 0}):
            send(gateway.url, body)
        text = send(gateway.url, path="/metrics").body.decode()
    values = dict(re.findall(r"^nvlm_gateway_(\S+) (\S+)$", text, re.MULTILINE))
    assert values['requests_total{status="200"}'] == "3.0"
    assert values['requests_total{status="400"}'] == "1.0"
    assert values['refusals_total{code="E-PARAM-RANGE"}'] == "1.0"
    assert values['request_success_total{finished_reason="length"}'] == "3.0"
    assert values["generation_tokens_total"] == "12.0"
    assert values["time_to_first_token_seconds_count"] == values["time_per_output_token_seconds_count"] == "2.0"
    assert values["e2e_request_latency_seconds_count"] == "4.0"
    assert values["request_queue_time_seconds_count"] == "3.0"
    assert values["num_requests_running"] == values["num_requests_waiting"] == "0.0"
    assert float(values["prompt_tokens_total"]) % 3 == 0


def test_every_answer_carries_its_id(gateway):
    told = send(gateway.url, GOOD)
    assert told.headers["x-request-id"] == told.json["id"]


def test_a_port_that_is_taken(gateway):
    port = int(gateway.url.rpartition(":")[2])
    with pytest.raises(ServerError, match="E-SERVER-PORT"):
        GatewayServer(GatewaySettings(port=port), "grpc://127.0.0.1:9")


def test_a_server_address_that_is_none():
    with pytest.raises(UsageError, match="E-USAGE-URL"):
        GatewayServer(GatewaySettings(port=0), "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"api_keys": ("short",)}, "E-USAGE-KEY"),
        ({"api_keys": ("a key with blanks in it",)}, "E-USAGE-KEY"),
        ({"tls_cert": "cert.pem"}, "E-USAGE-TLS"),
        ({"image_hosts": ("127.0.0.1",)}, "E-USAGE-HOST"),
    ],
)
def test_settings_that_cannot_be_meant(options, code):
    with pytest.raises(UsageError, match=code):
        GatewaySettings(**options)


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_limit_is_above_nothing(value):
    with pytest.raises(UsageError, match="E-USAGE-LIMIT"):
        Limits(queue_s=value)


def test_keys_are_not_shown():
    assert KEYS[0] not in repr(GatewaySettings(api_keys=KEYS))


def test_nagles_delay_is_off(gateway):
    """Accepted connections say so themselves; a time would only say it on an idle machine."""
    with connect(gateway.url) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: door\r\n\r\n")
        client.recv(1024)
        accepted = [
            protocol.transport.get_extra_info("socket") for protocol in gateway._server.server_state.connections
        ]
        assert accepted
        assert all(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for one in accepted)
