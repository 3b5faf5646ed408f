"""By which names a request goes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.gateway.raw import GOOD, connect, request_bytes, send


def test_a_client_reads_its_own_name_for_a_request(gateway):
    told = send(gateway.url, GOOD, headers={"X-Request-Id": "my-request_1.a"})
    assert told.headers["x-request-id"] == "my-request_1.a"
    assert told.json["id"].startswith("chatcmpl-")
    refused = send(gateway.url, {**GOOD, "max_tokens": 0}, headers={"X-Request-Id": "other"})
    assert (refused.status, refused.headers["x-request-id"]) == (400, "other")


@pytest.mark.parametrize("name", ["", "a b", "x" * 129, "line\tbreak", 'a"b', "\xe9", "a/../b", "{}"])
def test_a_name_that_is_not_well_formed_is_not_used(gateway, name):
    told = send(gateway.url, GOOD, headers={"X-Request-Id": name})
    assert told.status == 200
    assert told.headers["x-request-id"] == told.json["id"]


def test_two_names_are_none(gateway):
    with connect(gateway.url) as client:
        client.sendall(request_bytes(GOOD, "X-Request-Id: one", "X-Request-Id: two", "Connection: close"))
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"x-request-id: chatcmpl-" in answer.lower()


def test_two_requests_of_one_name_are_two(gateway):
    """The server knows them apart: each stream is whole, and a stop of one is none of the other."""
    bodies = [{**GOOD, "messages": [{"role": "user", "content": text}], "max_tokens": 40} for text in ("One?", "Two?")]
    alone = [send(gateway.url, body).json["choices"] for body in bodies]
    with ThreadPoolExecutor(8) as pool:
        told = pool.map(lambda body: send(gateway.url, body, headers={"X-Request-Id": "same"}), bodies * 4)
        assert [one.json["choices"] for one in told] == alone * 4
