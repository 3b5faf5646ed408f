from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from nvlm_trt.deploy.address import choose_ports
from nvlm_trt.errors import NvlmError, ServerError
from nvlm_trt.supervise.readiness import ReadinessServer
from tests.gateway.raw import connect, send


class Service:
    def __init__(self) -> None:
        self.error: NvlmError | None = None

    def check(self) -> None:
        if self.error is not None:
            raise self.error


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def url(service) -> Iterator[str]:
    port = choose_ports("127.0.0.1", [("health", 0)])[0]
    with ReadinessServer("127.0.0.1", port, service.check, lambda: {"restarts": {"triton": 2}}):
        yield f"http://127.0.0.1:{port}"


def test_ready_is_what_the_service_says(service, url):
    told = send(url, path="/health")
    assert told.status == 200
    assert told.json == {"status": "ok", "restarts": {"triton": 2}}
    service.error = ServerError("E-SERVER-MODEL", "A model process of the server has died.")
    told = send(url, path="/health")
    assert told.status == 503
    assert told.json["error"]["code"] == "E-SERVER-MODEL"
    assert told.headers["cache-control"] == "no-store"
    service.error = None
    assert send(url, path="/health").status == 200


def test_alive_is_whoever_answers(service, url):
    service.error = ServerError("E-SERVER-MODEL", "A model process of the server has died.")
    assert send(url, path="/live").status == 200


def test_a_head_alone_is_enough(url):
    told = send(url, path="/health", method="HEAD")
    assert told.status == 200
    assert told.body == b""


@pytest.mark.parametrize(
    ("path", "method", "status"), [("/", "GET", 404), ("/health/../live", "GET", 404), ("/health", "DELETE", 501)]
)
def test_nothing_else_is_served(url, path, method, status):
    assert send(url, path=path, method=method).status == status


def test_those_who_say_nothing_or_nonsense_or_go_away_stop_nobody(url):
    with contextlib.ExitStack() as stack:
        for what in (b"", b"GET /health", b"\0" * 70000, b"GET /health HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n"):
            for _ in range(5):
                client = stack.enter_context(connect(url))
                with contextlib.suppress(OSError):
                    client.sendall(what)
        connect(url).close()
        assert send(url, path="/health").status == 200
