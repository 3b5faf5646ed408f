"""The vision model's load script against a real server: what it counts, what it finds out, how it exits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tritonclient.grpc import InferenceServerClient

from nvlm_trt.deploy.server import TritonServer
from scripts import bench_vision_serving
from scripts.bench_vision_serving import VARIANTS, encode, main, measure


def test_shared_calls_are_served_and_counted(deployment: Path, monkeypatch: pytest.MonkeyPatch):
    shared = VARIANTS[1:2]
    monkeypatch.setattr(bench_vision_serving, "VARIANTS", shared)
    options = ["--clients", "1", "--clients", "4", "--per-client", "4", "--tiles", "2", "--repeats", "1", "--json"]
    result = CliRunner().invoke(main, [str(deployment), *options])
    assert result.exit_code == 0, result.output
    alone, four = json.loads(result.stdout)["points"]
    assert (alone["clients"], alone["requests"], alone["tiles_per_call"]) == (1, 4, 2.0)
    assert (four["clients"], four["requests"]) == (4, 16)
    assert 2.0 <= four["tiles_per_call"] <= 8.0
    assert alone["worst_error"] == four["worst_error"] == 0.0


def test_rows_that_differ_are_found_out(server: TritonServer, deployment: Path):
    requests = [np.full((1, 112, 112, 3), value, np.uint8) for value in (7, 8)]
    with InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client:
        wanted = [encode(client, request) for request in requests]
    assert measure(server, requests, wanted, 2).worst_error == 0.0
    assert measure(server, requests, wanted[::-1], 2).worst_error > 1e-3
