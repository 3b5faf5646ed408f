"""A real server over a deployment of the small checkpoint, in folders with blanks in their names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nvlm_trt.client import GrpcClient, HttpClient
from nvlm_trt.deploy.server import TritonServer
from nvlm_trt.pipeline.builder import build
from nvlm_trt.resources import resource_folder


@pytest.fixture(scope="session")
def deployment(small_checkpoint, tmp_path_factory) -> Path:
    """To be read, not changed."""
    folder: Path = tmp_path_factory.mktemp("a deployment") / "with blanks"
    build(small_checkpoint, "embedded", folder)
    return folder


@pytest.fixture(scope="package")
def server(deployment, small_checkpoint) -> Iterator[TritonServer]:
    with TritonServer(deployment, small_checkpoint) as server:
        yield server


@pytest.fixture(params=["grpc", "http"])
def client(request, server) -> Iterator[GrpcClient | HttpClient]:
    """The same test through both doors."""
    with (
        GrpcClient(server.grpc_url, timeout_s=20)
        if request.param == "grpc"
        else HttpClient(server.http_url, timeout_s=20)
    ) as client:
        yield client


@pytest.fixture(scope="session")
def photos() -> list[bytes]:
    return [file.read_bytes() for file in sorted((resource_folder("calibration") / "pictures").glob("*.jpg"))]
