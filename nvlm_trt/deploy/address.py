"""Where a server listens: chosen before it starts, so that it can be restarted at the same address."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from nvlm_trt.errors import ServerError

__all__ = ["Address", "choose_ports", "in_url"]


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    http_port: int
    grpc_port: int
    metrics_port: int

    @classmethod
    def choose(cls, host: str, http_port: int = 0, grpc_port: int = 0, metrics_port: int = 0) -> Address:
        """As ``choose_ports``."""
        return cls(host, *choose_ports(host, (("HTTP", http_port), ("gRPC", grpc_port), ("metrics", metrics_port))))

    @property
    def http_url(self) -> str:
        return f"http://{in_url(self.host)}:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        return f"grpc://{in_url(self.host)}:{self.grpc_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://{in_url(self.host)}:{self.metrics_port}/metrics"


def in_url(host: str) -> str:
    """The host as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def choose_ports(host: str, wanted: Sequence[tuple[str, int]]) -> list[int]:
    """The ports to use, each with its name: those given, and for each 0 one that nobody listens on now.

    Raises ``ServerError`` E-SERVER-PORT for one that is taken or a host that is not this machine's.
    """
    for number, (name, port) in enumerate(wanted):
        if port and port in [other for _, other in wanted[:number]]:
            raise _taken(host, name, port)
    with ExitStack() as stack:
        probes = [stack.enter_context(_probe(host, name, port)) for name, port in wanted]
        return [probe.getsockname()[1] for probe in probes]


def _probe(host: str, name: str, port: int) -> socket.socket:
    probe = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    # As the server does: a port whose last connections are still winding down is free.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((host, port))
        return probe
    except OSError:
        probe.close()
        raise _taken(host, name, port) from None


def _taken(host: str, name: str, port: int) -> ServerError:
    return ServerError(
        "E-SERVER-PORT",
        f"The {name} port {port} of {host} cannot be listened on; something else may do so.",
        "Choose another, or 0 for a free one.",
    )
