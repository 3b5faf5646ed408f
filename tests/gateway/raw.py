"""HTTP without a client's niceties."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

__all__ = ["GOOD", "Told", "connect", "request_bytes", "send"]

TIMEOUT_S = 20.0
GOOD: dict[str, Any] = {"model": "nvlm-d", "messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 4}


@dataclass(frozen=True)
class Told:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


def send(
    url: str, body: Any = None, *, path: str = "/v1/chat/completions", method: str = "", headers: Mapping[str, str] = {}
) -> Told:
    """GET without a ``body``, else POST; what is not bytes goes as JSON."""
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)
    try:
        sent = {"Content-Type": "application/json", **headers} if body is not None else dict(headers)
        connection.request(method or ("GET" if body is None else "POST"), path, data, sent)
        response = connection.getresponse()
        return Told(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def request_bytes(body: Any, *headers: str) -> bytes:
    data = json.dumps(body).encode()
    head = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: door",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        *headers,
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + data


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT_S)
