from __future__ import annotations

import socket

import pytest

from nvlm_trt.deploy.address import Address, choose_ports
from nvlm_trt.errors import ServerError


def test_free_ports_differ_and_fixed_ones_are_kept():
    address = Address.choose("127.0.0.1")
    assert len({address.http_port, address.grpc_port, address.metrics_port}) == 3
    kept = Address.choose("127.0.0.1", grpc_port=address.grpc_port)
    assert kept.grpc_url == f"grpc://127.0.0.1:{address.grpc_port}"


@pytest.mark.parametrize(
    ("name", "argument"), [("HTTP", "http_port"), ("gRPC", "grpc_port"), ("metrics", "metrics_port")]
)
def test_a_port_in_use_is_named(name, argument):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"E-SERVER-PORT: The {name} port {port}"):
            Address.choose("127.0.0.1", **{argument: port})


def test_a_port_wanted_twice_is_refused():
    port = choose_ports("127.0.0.1", [("a", 0)])[0]
    with pytest.raises(ServerError, match=f"E-SERVER-PORT: The b port {port}"):
        choose_ports("127.0.0.1", [("a", port), ("b", port)])


def test_an_ipv6_address_stands_in_brackets():
    address = Address("::1", 8000, 8001, 8002)
    assert address.http_url == "http://[::1]:8000"
    assert address.grpc_url == "grpc://[::1]:8001"
    assert address.metrics_url == "http://[::1]:8002/metrics"
