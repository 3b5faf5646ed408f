"""Whoever leaves frees the decoder at once: read off the decoder's own figures."""

from __future__ import annotations

import re
import socket
import time
from typing import Any

import openai
import pytest

from nvlm_trt.gateway.server import GatewayServer
from nvlm_trt.gateway.settings import GatewaySettings, Limits
from tests.gateway.conftest import picture_part, text_part, user
from tests.gateway.raw import GOOD, connect, request_bytes, send
from tests.triton.test_cancel import figure, running, wait_until

WORDY = {**GOOD, "max_tokens": 900, "ignore_eos": True}
# Eight answers at once: one takes the decoder a third of a second, less than a busy machine may need to leave.
LONG = {**WORDY, "n": 8, "temperature": 1}
ALL = 8 * 900


def door_figure(gateway, name: str) -> float:
    found = re.search(rf"^nvlm_gateway_{name} (\S+)$", send(gateway.url, path="/metrics").body.decode(), re.MULTILINE)
    assert found
    return float(found[1])


def long_stream(chat) -> Any:
    known = {name: LONG[name] for name in ("model", "messages", "max_tokens", "n", "temperature")}
    return chat.chat.completions.create(**known, extra_body={"ignore_eos": True}, stream=True)


def check_freed(server, gateway, generated_before: float, at_most: int) -> None:
    assert wait_until(lambda: running(server) == 0 and door_figure(gateway, "num_requests_running") == 0)
    time.sleep(0.3)  # the decoder's figures are brought up to date ten times a second
    assert figure(server, "tokens_total", "generated") - generated_before < at_most
    assert send(gateway.url, GOOD).status == 200


def generated(server) -> float:
    time.sleep(0.15)
    return figure(server, "tokens_total", "generated")


def test_closing_a_stream_frees_the_decoder(server, gateway, chat):
    before = generated(server)
    with long_stream(chat) as stream:
        next(iter(stream))
    check_freed(server, gateway, before, ALL)


def test_a_dropped_connection_ends_every_choice(server, gateway):
    before = generated(server)
    with connect(gateway.url) as client:
        client.sendall(request_bytes({**LONG, "stream": True}))
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
    check_freed(server, gateway, before, ALL)


def test_leaving_before_a_whole_answer_frees_the_decoder(server, gateway):
    """Nothing has been sent back yet, and nothing will be."""
    before = generated(server)
    with connect(gateway.url) as client:
        client.sendall(request_bytes(LONG))
        time.sleep(0.1)
    check_freed(server, gateway, before, ALL)


def test_leaving_at_once_frees_the_decoder_though_pictures_were_still_being_read(server, gateway, photos):
    """The first stop comes before the decoder knows the request."""
    before = generated(server)
    message = user(*[picture_part(photo) for photo in photos[:4]], text_part("What?"))
    with connect(gateway.url) as client:
        client.sendall(request_bytes({**LONG, "messages": [message], "max_tokens": 400}))
    check_freed(server, gateway, before, 8 * 400)


def test_a_stop_word_frees_the_decoder(server, gateway):
    before = generated(server)
    answer = send(gateway.url, {**WORDY, "max_tokens": 20}).json["choices"][0]["message"]["content"]
    told = send(gateway.url, {**WORDY, "stop": answer[20:23]})
    assert told.json["choices"][0]["finish_reason"] == "stop"
    check_freed(server, gateway, before, 900)


def test_a_client_that_reads_nothing_is_left(server):
    """Its answer fills the way to it; then it has some time, then its slot is another's."""
    settings = GatewaySettings(port=0, limits=Limits(write_s=0.3))
    with GatewayServer(settings, server.grpc_url) as gateway, connect(gateway.url) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        body = {**LONG, "stream": True, "logprobs": True}
        client.sendall(request_bytes(body))
        assert wait_until(lambda: running(server) > 0)
        assert wait_until(lambda: b'requests_total{status="499"} 1' in send(gateway.url, path="/metrics").body, 20)
        assert wait_until(lambda: running(server) == 0)


def test_who_waits_for_a_turn_can_leave_too(server):
    with GatewayServer(GatewaySettings(port=0, limits=Limits(answers=1)), server.grpc_url) as gateway:
        with connect(gateway.url) as first, connect(gateway.url) as second:
            first.sendall(request_bytes({**WORDY, "stream": True}))
            assert first.recv(4096)
            second.sendall(request_bytes(WORDY))
            assert wait_until(lambda: door_figure(gateway, "num_requests_waiting") == 1)
            second.close()
            assert wait_until(lambda: door_figure(gateway, "num_requests_waiting") == 0)
        assert wait_until(lambda: running(server) == 0)


def test_a_gateway_that_stops_ends_its_streams_and_frees_the_decoder(server):
    before = generated(server)
    gateway = GatewayServer(GatewaySettings(port=0), server.grpc_url, drain_s=0.2)
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as chat:
        stream = iter(long_stream(chat))
        next(stream)
        gateway.stop()
        with pytest.raises(openai.APIError, match="E-CANCEL-SHUTDOWN"):
            list(stream)
    assert wait_until(lambda: running(server) == 0)
    assert generated(server) - before < ALL
