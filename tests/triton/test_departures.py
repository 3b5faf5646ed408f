"""Clients that vanish without a word, by every door: the decoder is free within a step of what they last could read.

They are not ours: nothing of this package runs in them, so nothing sends a stop for them. Told from the decoder's own
figures: nobody runs or waits, all of its memory is free, and far fewer tokens were made than were asked for.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput

from nvlm_trt.client import AskOptions, GrpcClient
from nvlm_trt.deploy.figures import read_figures
from tests.attacks.doors import picture_uri
from tests.gateway.raw import GOOD, connect, request_bytes, send
from tests.triton.test_cancel import figure, wait_until

TOKENS = 900
LONG = {"text_input": "Tell a very long story.", "max_tokens": TOKENS, "min_tokens": TOKENS, "stream": True}


@pytest.fixture
def freed(server) -> Callable[[int], None]:
    """Asserts, after a client has gone, that at most so many tokens were made for it and all it held is free."""
    time.sleep(0.15)  # the figures are brought up to date ten times a second
    pool, before = figure(server, "pool_tokens", "all"), figure(server, "tokens_total", "generated")

    def made() -> float:
        return figure(server, "tokens_total", "generated")

    def idle() -> bool:
        """For a while: a request may be on its way from one model to the next."""
        begun = made()
        time.sleep(0.3)
        open_ones = [figure(server, "requests", state) for state in ("running", "waiting")]
        return sum(open_ones) == 0 and figure(server, "pool_tokens", "free") == pool and made() == begun

    def check(at_most: int) -> None:
        assert wait_until(idle)
        assert 0 < made() - before < at_most

    return check


def http_request(path: str, values: object) -> bytes:
    data = json.dumps(values).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: triton\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def test_http_connection_dropped_in_mid_stream(server, freed):
    with connect(server.http_url) as client:
        client.sendall(http_request("/v2/models/ensemble/generate_stream", {"id": "dropped", **LONG}))
        assert client.recv(2**16)
    freed(TOKENS)


@contextmanager
def tritonclient_stream(server, values: dict[str, object], request_id: str) -> Iterator[InferenceServerClient]:
    """Of Triton's own client, after its first answer."""
    answers: list[object] = []
    client = InferenceServerClient(server.grpc_url.removeprefix("grpc://"))
    client.start_stream(lambda result, error: answers.append(error or result))
    inputs = []
    for name, value in values.items():
        kind = {str: "BYTES", bool: "BOOL", int: "INT32"}[type(value)]
        array = np.array([value.encode() if isinstance(value, str) else value])
        tensor = InferInput(name, [1], kind)
        tensor.set_data_from_numpy(array.astype({"BYTES": object, "BOOL": bool, "INT32": np.int32}[kind]))
        inputs.append(tensor)
    client.async_stream_infer("ensemble", inputs, request_id=request_id)
    assert wait_until(lambda: answers)
    try:
        yield client
    finally:
        client.close()


def test_triton_s_own_client_stops_its_stream(server, freed):
    with tritonclient_stream(server, LONG, "stopped") as client:
        client.stop_stream(cancel_requests=True)
    freed(TOKENS)


@pytest.mark.parametrize("door", ["grpc", "http"])
def test_client_killed_in_mid_stream(server, freed, door):
    url = server.grpc_url.removeprefix("grpc://") if door == "grpc" else server.http_url
    script = {
        "grpc": (
            "import sys\n"
            "from types import SimpleNamespace\n"
            "from tests.triton.test_departures import LONG, tritonclient_stream\n"
            "import time\n"
            "with tritonclient_stream(SimpleNamespace(grpc_url='grpc://' + sys.argv[1]), LONG, 'killed'):\n"
            "    print('begun', flush=True)\n"
            "    time.sleep(60)\n"
        ),
        "http": (
            "import sys, time\n"
            "from tests.triton.test_departures import LONG, connect, http_request\n"
            "client = connect(sys.argv[1])\n"
            "client.sendall(http_request('/v2/models/ensemble/generate_stream', {'id': 'killed', **LONG}))\n"
            "client.recv(2**16)\n"
            "print('begun', flush=True)\n"
            "time.sleep(60)\n"
        ),
    }[door]
    with subprocess.Popen([sys.executable, "-c", script, url], stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "begun\n"
        client.send_signal(signal.SIGKILL)
    # It may have taken a good part of the answer before it was killed: the decoder is fast, starting Python is not.
    freed(TOKENS)


def test_client_gone_before_its_pictures_were_read(server, photos):
    """The decoder may be asked all the same, and is stopped after its first piece."""
    images = [picture_uri(photo) for photo in photos[:4]]
    with connect(server.http_url) as client:
        values = {"id": "early", **LONG, "image_url_input": images, "max_tokens": 400, "min_tokens": 400}
        client.sendall(http_request("/v2/models/ensemble/generate_stream", values))
    asked = figure(server, "tokens_total", "generated")
    time.sleep(0.5)  # in which the pictures are read
    assert wait_until(lambda: read_figures(server.metrics_url).open == 0)
    assert figure(server, "tokens_total", "generated") - asked < 400


def test_200_clients_that_vanish_together(server, freed):
    clients = [connect(server.http_url) for _ in range(200)]
    for number, client in enumerate(clients):
        client.sendall(http_request("/v2/models/ensemble/generate_stream", {"id": f"crowd-{number}", **LONG}))
    assert clients[0].recv(2**16)
    for client in clients:
        client.close()
    freed(200 * TOKENS // 2)


def test_200_clients_that_vanish_together_from_the_gateway(server, gateway, freed):
    clients = [connect(gateway.url) for _ in range(200)]
    for client in clients:
        client.sendall(request_bytes({**GOOD, "max_tokens": TOKENS, "ignore_eos": True, "stream": True}))
    assert clients[0].recv(2**16)
    for client in clients:
        client.close()
    freed(200 * TOKENS // 2)
    assert send(gateway.url, GOOD).status == 200


def test_client_that_never_reads_hinders_nobody(server, freed):
    """Triton keeps what it does not take: an answer of ``max_tokens`` at most."""
    with connect(server.http_url) as client, GrpcClient(server.grpc_url) as other:
        client.sendall(http_request("/v2/models/ensemble/generate_stream", {"id": "deaf", **LONG}))
        assert other.ask("Hello", (), AskOptions(max_tokens=4)).output_tokens <= 4
        freed(TOKENS + 5)
