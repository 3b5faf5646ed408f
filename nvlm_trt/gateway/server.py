"""A gateway from its start to its end, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn

from nvlm_trt.client.grpc_client import read_address
from nvlm_trt.errors import ServerError
from nvlm_trt.gateway.app import make_app
from nvlm_trt.gateway.protocol import bounded_protocol
from nvlm_trt.gateway.settings import GatewaySettings
from nvlm_trt.intake.fetch import Fetcher

__all__ = ["GatewayServer"]

_BACKLOG = 1024
_SEND_BYTES = 2**17
# Longer than the 5 s after which OpenAI's client closes an idle connection: otherwise both do at once, and its next
# request is lost now and then.
_KEEP_ALIVE_S = 15


class GatewayServer:
    """Listens when its constructor returns, until ``stop``; a context manager."""

    def __init__(
        self, settings: GatewaySettings, triton_url: str, fetcher: Fetcher | None = None, *, drain_s: float = 5.0
    ) -> None:
        """``triton_url`` is grpc://HOST:PORT; nothing need answer there yet. At its end, answers that have begun get
        ``drain_s`` seconds.

        Raises ``UsageError`` E-USAGE-URL, E-USAGE-LOG, ``MissingToolError`` E-TOOL-TRACES,
        ``ServerError`` E-SERVER-PORT, E-SERVER-START.
        """
        read_address(triton_url)
        limits = settings.limits
        fetcher = fetcher or Fetcher(limits.picture, limits.fetch_s)
        config = uvicorn.Config(
            make_app(settings, triton_url, fetcher),
            http=bounded_protocol(limits.head_s),
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=limits.connections,
            h11_max_incomplete_event_size=limits.head_bytes,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=drain_s,  # type: ignore[arg-type]  # a whole number of seconds by type only
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
        )
        config.load()
        self._socket = _listen(settings.host, settings.port)
        self._port = self._socket.getsockname()[1]
        self._scheme = "http" if settings.tls_cert is None else "https"
        self._host = settings.host
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        self._thread.start()
        self._server.settled.wait()
        if not self._server.started:
            self.stop()
            raise ServerError("E-SERVER-START", "The gateway did not start.", "Its log says why.")

    @property
    def url(self) -> str:
        """Without the path ``/v1`` that OpenAI's clients expect behind it."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{self._scheme}://{host}:{self._port}"

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Take no more requests, give those that run their time, end the rest. May be called again."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def __enter__(self) -> GatewayServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self._server.serve(sockets=[self._socket]))
        finally:
            self._server.settled.set()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.settled = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.settled.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the program's, which may run more than this."""
        yield


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # By its protocol's name: asyncio turns Nagle's delay off only for connections that have it, and an answer of two
    # writes would wait 40 ms for the client's acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it. Left to itself the kernel would keep megabytes for a client that reads nothing.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise ServerError(
            "E-SERVER-PORT",
            f"The gateway's port {port} of {host} cannot be listened on; something else may do so.",
            "Choose another, or 0 for a free one.",
        ) from None
    return listener
