from __future__ import annotations

from collections.abc import Iterator

import pytest

from nvlm_trt.client import GrpcClient, HttpClient


@pytest.fixture(params=["grpc", "http"])
def client(request, server) -> Iterator[GrpcClient | HttpClient]:
    """The same test through both doors."""
    with (
        GrpcClient(server.grpc_url, timeout_s=20)
        if request.param == "grpc"
        else HttpClient(server.http_url, timeout_s=20)
    ) as client:
        yield client
