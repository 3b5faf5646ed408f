from __future__ import annotations

import re
import threading
import time
import urllib.request

import pytest

from nvlm_trt.client import AskOptions, GrpcClient, HttpClient
from nvlm_trt.client.wire import write_request
from nvlm_trt.errors import CancelledError

LONG = AskOptions(max_tokens=900)


def figure(server, name: str, label: str) -> float:
    with urllib.request.urlopen(server.metrics_url, timeout=5) as response:
        text = response.read().decode()
    found = re.search(rf'^nvlm_decoder_{name}\{{.*"{label}".*\}} (\S+)', text, re.MULTILINE)
    assert found
    return float(found[1])


def running(server) -> float:
    return figure(server, "requests", "running")


def wait_until(condition, timeout_s: float = 30.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not (met := bool(condition())) and time.monotonic() < deadline:
        time.sleep(0.02)
    return met


def test_leaving_a_stream_early_frees_the_decoder(client, server):
    before = figure(server, "tokens_total", "generated")
    with client.stream("Tell a very long story.", (), LONG) as stream:
        next(stream)
    assert wait_until(lambda: running(server) == 0)
    time.sleep(0.3)  # the figures are brought up to date ten times a second
    assert figure(server, "tokens_total", "generated") - before < LONG.max_tokens
    assert client.ask("Hello", (), AskOptions(max_tokens=2)).output_tokens == 2


@pytest.mark.parametrize("stopper", [GrpcClient, HttpClient])
def test_a_stream_is_stopped_by_its_id_from_elsewhere(client, server, stopper):
    url = server.grpc_url if stopper is GrpcClient else server.http_url
    with stopper(url) as other:
        assert any(stopped(client, other) for _ in range(10))


def stopped(client, other) -> bool:
    """Whether the stop came in time: the small decoder needs less than a second for all of it."""
    with client.stream("Tell a very long story.", (), LONG) as stream:
        next(stream)
        other.stop(stream.request_id)
        try:
            stream.finish()
        except CancelledError:
            return True
    return False


def test_stopping_what_is_not_there_does_nothing(client):
    client.stop("no such request")


def test_an_id_in_use_is_refused_and_the_first_goes_on(server):
    with GrpcClient(server.grpc_url) as client:
        values = {"text_input": "Tell a story.", "max_tokens": 300, "stream": True}
        first = client._stub.ModelStreamInfer(iter([write_request("ensemble", "twice", values)]))
        next(iter(first))
        second = client._stub.ModelStreamInfer(iter([write_request("ensemble", "twice", values)]))
        assert "E-PARAM-ID" in next(iter(second)).error_message
        assert not any(response.error_message for response in first)


def test_a_decoder_called_directly_notices_that_its_client_left(server):
    values = {"input_ids": [5, 6, 7], "input_lengths": 3, "request_output_len": 900, "streaming": True}
    with GrpcClient(server.grpc_url) as client:
        call = client._stub.ModelStreamInfer(iter([write_request("tensorrt_llm", "direct", values, batched=True)]))
        next(iter(call))
        call.cancel()
    assert wait_until(lambda: running(server) == 0)


def test_clients_leave_no_thread_behind(server):
    def ours() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "grpc-answer"]

    with GrpcClient(server.grpc_url) as client:
        client.ask("Hello", (), AskOptions(max_tokens=2))
        with client.stream("Hello", (), LONG) as stream:
            next(stream)
    assert ours() == []
