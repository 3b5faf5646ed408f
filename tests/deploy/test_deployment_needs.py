"""What the production form needs of a machine, in a stand-in of the container: its folders and its ``nvidia-smi``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nvlm_trt.decoder.trtllm_format import Mapping, checkpoint_json
from nvlm_trt.deploy import deployment_needs
from nvlm_trt.deploy.container_triton import ContainerTriton
from nvlm_trt.deploy.deployment_needs import check_deployment
from nvlm_trt.deploy.repository import write_repository
from nvlm_trt.errors import ArtefactError, MissingToolError
from nvlm_trt.pipeline.machine import gpus
from nvlm_trt.plan.resolve import load_recipe
from tests.release import RELEASE


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """The container on a machine with as many GPUs as are asked for."""
    (tmp_path / "opt" / "backends" / "tensorrtllm").mkdir(parents=True)
    monkeypatch.setattr(deployment_needs, "find_runtime", lambda: ContainerTriton(tmp_path / "opt"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def with_gpus(count: int) -> None:
        smi = tmp_path / "nvidia-smi"
        smi.write_text("#!/bin/sh\n" + "echo 'NVIDIA H100, 81559, 590.44, 9.0'\n" * count)
        smi.chmod(0o755)
        gpus.cache_clear()

    yield with_gpus
    gpus.cache_clear()


@pytest.fixture
def deployment(tmp_path, small_checkpoint, small_config) -> Path:
    folder: Path = tmp_path / "deployment"
    write_repository(load_recipe("h100x8-fp8", RELEASE), small_config, folder / "triton_repo")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_bytes((small_checkpoint / "config.json").read_bytes())
    (folder / "decoder" / "checkpoint").mkdir(parents=True)
    return folder


def say(deployment: Path, mapping: Mapping) -> None:
    told = json.dumps(checkpoint_json(RELEASE, mapping))
    (deployment / "decoder" / "checkpoint" / "config.json").write_text(told, encoding="utf-8")


@pytest.mark.parametrize(("mapping", "least"), [(Mapping(8), 8), (Mapping(2), 2), (Mapping(4, 2, gpus_per_node=4), 4)])
def test_a_machine_needs_the_gpus_of_its_ranks(machine, deployment, mapping, least):
    say(deployment, mapping)
    for count in (0, least, least + 1):  # none are seen where the tool that counts them is missing
        machine(count)
        assert check_deployment(deployment)[1] == mapping.world_size
    machine(least - 1)
    with pytest.raises(MissingToolError, match=f"E-TOOL-GPU: .*machines with {least} GPUs; this one shows {least - 1}"):
        check_deployment(deployment)


@pytest.mark.parametrize("text", ['{"mapping": {}}', '{"mapping": 8}', '{"mapping": {"world_size": "many"}}', "{"])
def test_a_checkpoint_that_says_nothing_of_its_ranks_is_refused(machine, deployment, text):
    machine(8)
    (deployment / "decoder" / "checkpoint" / "config.json").write_text(text)
    with pytest.raises(ArtefactError, match="E-ARTEFACT-DECODER"):
        check_deployment(deployment)
