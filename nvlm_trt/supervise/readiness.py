"""The service's health for load balancers and probes, on a port of its own, with or without a gateway.

    GET /health    200 if every part of the service works now, otherwise 503 with the reason
    GET /live      200 as long as the supervisor lives; it may be restarting a part

Strangers may reach this port, so a request has a few seconds, everybody gets the same answer, and only ``_AT_ONCE``
connections are served at the same time.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from nvlm_trt.errors import NvlmError

__all__ = ["ReadinessServer"]

_AT_ONCE = 128
_PATIENCE_S = 5.0


class ReadinessServer:
    """Listens on ``host`` and ``port`` from its construction until ``close``; a context manager.

    ``check`` raises the ``NvlmError`` with which the service fails now; ``state`` is part of every answer. Raises
    ``OSError`` if the port cannot be listened on.
    """

    def __init__(self, host: str, port: int, check: Callable[[], None], state: Callable[[], Mapping[str, Any]]) -> None:
        class Handler(_Handler):
            ready = staticmethod(check)
            known = staticmethod(state)

        self._server = _Server((host, port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="readiness", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> ReadinessServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._room = threading.BoundedSemaphore(_AT_ONCE)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that asks and goes away is nothing to report."""


class _Handler(BaseHTTPRequestHandler):
    ready: Callable[[], None]
    known: Callable[[], Mapping[str, Any]]
    timeout = _PATIENCE_S
    server_version, sys_version = "nvlm-trt", ""

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(*self._health())
        elif self.path == "/live":
            self._answer(200, {"status": "ok"})
        else:
            self._answer(404, {"error": "There is /health and /live."})

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds, and the supervisor logs what they would find."""

    def _health(self) -> tuple[int, Mapping[str, Any]]:
        try:
            self.ready()
        except NvlmError as error:
            told = {"code": error.code, "message": str(error)}
            return 503, {"status": "failed", **self.known(), "error": told}
        return 200, {"status": "ok", **self.known()}

    def _answer(self, status: int, body: Mapping[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)
