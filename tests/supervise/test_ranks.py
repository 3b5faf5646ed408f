"""A decoder over two real ranks, one of which dies: nobody says that this server is ready."""

from __future__ import annotations

import os
import signal
import urllib.request
from pathlib import Path

import pytest

from nvlm_trt.client import AskOptions, GrpcClient
from nvlm_trt.errors import NvlmError
from nvlm_trt.pipeline.builder import build
from nvlm_trt.resources import resource_folder
from tests.deploy.processes import wait_for
from tests.supervise.service import Service, all_pids


@pytest.fixture(scope="module")
def two_ranks(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    recipe = folder / "ranks.toml"
    embedded = (resource_folder("recipes") / "embedded.toml").read_text(encoding="utf-8")
    recipe.write_text(embedded.replace('engine = "embedded"', 'engine = "embedded"\nrunner = "torch"\ntp = 2'))
    build(small_checkpoint, str(recipe), folder / "out")
    return folder / "out"


def triton_says_ready(service: Service) -> bool:
    try:
        with urllib.request.urlopen(f"{service.urls['http']}/v2/health/ready", timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def test_a_dead_rank_makes_the_server_not_ready(two_ranks):
    with Service(two_ranks, "--no-gateway", "--ask-every-s=0.5") as service:
        ranks = [pid for pid, command in all_pids(service.process.pid).items() if "rank_process" in command]
        assert len(ranks) == 2
        with GrpcClient(service.urls["grpc"], timeout_s=15) as client:
            stream = client.stream("Tell a story.", (), AskOptions(max_tokens=900, min_tokens=900))
            next(stream)
            os.kill(ranks[1], signal.SIGKILL)
            with pytest.raises(NvlmError, match=r"E-ENGINE-|E-SERVER-"):
                stream.finish()
        assert wait_for(lambda: service.health().status == 503)
        assert wait_for(lambda: any(event["event"] == "failed" for event in service.events))
        # Started again, which takes a while; what matters is that Triton does not say it is ready meanwhile.
        assert not triton_says_ready(service)
