"""The production form's command line, as text: TensorRT-LLM's leader mode."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from nvlm_trt.deploy.address import Address
from nvlm_trt.deploy.container_triton import ContainerTriton

ADDRESS = Address("0.0.0.0", 8000, 8001, 8002)
FOLDER = Path("/tmp/nvlm-trt-x")


def ranks(command: list[str]) -> list[list[str]]:
    return [list(part) for colon, part in groupby(command, ":".__eq__) if not colon]


def test_one_gpu_needs_no_mpi():
    command = ContainerTriton().command(FOLDER, ADDRESS, "nvlm_x_", 1)
    assert command[0] == "/opt/tritonserver/bin/tritonserver"
    assert "--model-repository=/tmp/nvlm-trt-x/repository" in command
    assert "--backend-config=python,shm-region-prefix-name=nvlm_x_" in command
    assert "--disable-auto-complete-config" in command
    assert "--http-max-input-size=1073741824" in command


def test_several_gpus_are_one_server_for_each_under_one_mpirun():
    command = ContainerTriton().command(FOLDER, ADDRESS, "nvlm_x_", 4)
    assert command[:4] == ["mpirun", "--allow-run-as-root", "--bind-to", "none"]
    parts = ranks(command[4:])
    assert len(parts) == 4
    for rank, part in enumerate(parts):
        assert part[:3] == ["-n", "1", "/opt/tritonserver/bin/tritonserver"]
        assert "--model-repository=/tmp/nvlm-trt-x/repository" in part
        assert {"--http-port=8000", "--grpc-port=8001", "--metrics-port=8002"} < set(part)
        assert {"--disable-auto-complete-config", "--http-max-input-size=1073741824"} < set(part)
        assert f"--backend-config=python,shm-region-prefix-name=nvlm_x_{rank}_" in part


def test_rank_0_loads_every_model_and_the_others_the_decoder_alone():
    first, *others = ranks(ContainerTriton().command(FOLDER, ADDRESS, "nvlm_x_", 2)[4:])
    assert not [flag for flag in first if flag.startswith(("--model-control-mode", "--load-model"))]
    for rank in others:
        assert [flag for flag in rank if flag.startswith(("--model-control-mode", "--load-model"))] == [
            "--model-control-mode=explicit",
            "--load-model=tensorrt_llm",
        ]


def test_a_rank_s_server_takes_no_memory_for_copies_between_gpus():
    no_pools = {f"--cuda-memory-pool-byte-size={gpu}:0" for gpu in range(3)}
    for rank in ranks(ContainerTriton().command(FOLDER, ADDRESS, "nvlm_x_", 3)[4:]):
        assert {"--enable-peer-access=false", "--pinned-memory-pool-byte-size=0"} < set(rank)
        assert {flag for flag in rank if flag.startswith("--cuda-memory-pool-byte-size")} == no_pools


def test_the_container_s_triton_is_found_by_its_files(tmp_path):
    assert not ContainerTriton(tmp_path).exists
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tritonserver").touch()
    assert ContainerTriton(tmp_path).exists
    assert ContainerTriton(tmp_path).decoders == ("python",)
    (tmp_path / "backends" / "tensorrtllm").mkdir(parents=True)
    assert ContainerTriton(tmp_path).decoders == ("python", "tensorrtllm")


def test_the_user_s_own_choice_for_mpi_is_kept():
    assert ContainerTriton().environment({})["PMIX_MCA_gds"] == "hash"
    assert ContainerTriton().environment({"PMIX_MCA_gds": "ds21"})["PMIX_MCA_gds"] == "ds21"


def test_ipv6_addresses_as_tritons_doors_want_them():
    """Tried by hand with 2.51: written in any other way they are "already in use"."""
    command = ContainerTriton().command(FOLDER, Address("::", 8000, 8001, 8002), "nvlm_x_", 1)
    assert {"--http-address=ipv6:::", "--metrics-address=ipv6:::", "--grpc-address=[::]"} < set(command)
