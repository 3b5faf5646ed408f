"""Plans built for real, by TensorRT-RTX, which needs no GPU to compile."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.errors import ArtefactError, BuildError, MissingToolError, UsageError
from nvlm_trt.vision import tensorrt_module
from nvlm_trt.vision.artefact import read_graph, write_artefact
from nvlm_trt.vision.plan import PlanInfo, read_plan_info
from nvlm_trt.vision.registry import build_engine
from nvlm_trt.vision.tensorrt_builder import build_plan
from nvlm_trt.vision.tensorrt_module import TENSORRT_KINDS
from tests.vision.fake_tensorrt import full_builder

RTX = TENSORRT_KINDS["tensorrt_rtx"]
FULL = TENSORRT_KINDS["tensorrt"]


@pytest.fixture(scope="module")
def steps() -> list[tuple[int, int, str]]:
    return []


@pytest.fixture(scope="module")
def built(
    exported: Path,
    small_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, int, str]],
) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    build_engine(
        "tensorrt_rtx",
        exported,
        small_checkpoint,
        (1, 7, 28),
        folder / "vision.plan",
        compute_capabilities=["8.9", "12.0"],
        progress=lambda *seen: steps.append(seen),
    )
    return folder


def test_every_attention_is_one_fused_kernel(built: Path, checkpoint: Checkpoint):
    """The plan carries its kernel list in the clear; the fused attention is called ``_gemm_mha``."""
    kernels = re.findall(rb"function=\{ name=(\w+)", (built / "vision.plan").read_bytes())
    attention = [name for name in kernels if name.startswith(b"_gemm_mha")]
    assert len(attention) == checkpoint.config.vision.num_layers
    assert not any(b"softmax" in name.lower() for name in kernels)


def test_kernels_name_the_graphs_nodes(built: Path):
    assert b"[ONNX Layer: layers.3/attention/Softmax]" in (built / "vision.plan").read_bytes()


def test_the_plan_is_described_and_nothing_else_is_left(built: Path):
    import tensorrt_rtx

    assert sorted(file.name for file in built.iterdir()) == ["vision.plan", "vision.plan.json"]
    size = (built / "vision.plan").stat().st_size
    version = tensorrt_rtx.__version__
    assert read_plan_info(built) == PlanInfo(
        "tensorrt_rtx", version, ("8.9", "12.0"), (1, 7, 28), 112, 16, 256, "bfloat16", size
    )
    assert json.loads((built / "vision.plan.json").read_text())["profile"] == [1, 7, 28]


@pytest.mark.usefixtures("built")
def test_progress_counts_up(steps: list[tuple[int, int, str]]):
    done = [step[0] for step in steps]
    assert done == list(range(1, len(done) + 1))
    assert all(step[0] <= step[1] for step in steps)
    assert {step[2] for step in steps} == {"steps"}


def build(exported: Path, small_checkpoint: Path, folder: Path, **options: Any) -> None:
    arguments = {"profile": (1, 2, 2), "compute_capabilities": ["8.9"], **options}
    profile = arguments.pop("profile")
    build_engine("tensorrt_rtx", exported, small_checkpoint, profile, folder / "vision.plan", **arguments)


@pytest.mark.parametrize("target", ["9.0", "8", "", "CURRENT"])
def test_a_gpu_the_builder_does_not_know_is_refused(
    exported: Path, small_checkpoint: Path, tmp_path: Path, target: str
):
    with pytest.raises(BuildError, match=r"E-BUILD-SM.*it knows 7\.5, 8\.0, 8\.6, 8\.9, 12\.0"):
        build(exported, small_checkpoint, tmp_path, compute_capabilities=[target])


def test_a_gpu_without_the_dtype_is_refused(exported: Path, small_checkpoint: Path, tmp_path: Path):
    with pytest.raises(BuildError, match=r"E-BUILD-SM.*dtype"):
        build(exported, small_checkpoint, tmp_path, compute_capabilities=["7.5"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("profile", [(0, 1, 2), (2, 1, 3), (1, 3, 2)])
def test_a_profile_that_does_not_rise_is_refused(
    exported: Path, small_checkpoint: Path, tmp_path: Path, profile: tuple[int, int, int]
):
    with pytest.raises(UsageError, match="E-USAGE-PROFILE"):
        build(exported, small_checkpoint, tmp_path, profile=profile)


def test_a_graph_the_parser_cannot_read_names_the_node(vision_folder: Path, small_checkpoint: Path, tmp_path: Path):
    model = read_graph(vision_folder)
    node = next(node for node in model.graph.node if node.name == "layers.1/mlp/Gelu")
    node.op_type = "NoSuchOperator"
    write_artefact(vision_folder, "vision.onnx", model.SerializeToString())
    with pytest.raises(BuildError) as caught:
        build(vision_folder, small_checkpoint, tmp_path)
    assert caught.value.code == "E-BUILD-PARSE"
    assert "at NoSuchOperator layers.1/mlp/Gelu" in caught.value.what


def test_missing_weights_are_found_before_anything_is_compiled(
    vision_folder: Path, small_checkpoint: Path, tmp_path: Path
):
    (vision_folder / "weights.safetensors").unlink()
    with pytest.raises(ArtefactError, match="E-ARTEFACT-WEIGHTS"):
        build(vision_folder, small_checkpoint, tmp_path)


def test_what_the_progress_callback_raises_stops_the_build(exported: Path, small_checkpoint: Path, tmp_path: Path):
    def interrupt(done: int, _total: int, _unit: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(exported, small_checkpoint, tmp_path, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_that_cannot_be_put_in_its_place_leaves_nothing(exported: Path, small_checkpoint: Path, tmp_path: Path):
    with pytest.raises(BuildError, match="E-BUILD-WRITE"):
        build(exported, small_checkpoint, tmp_path / "no such folder")
    assert list(tmp_path.iterdir()) == []


def test_the_full_builder_builds_for_its_gpu_and_keeps_its_timings(
    exported: Path, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("nvlm_trt.vision.tensorrt_builder.load_tensorrt", full_builder)
    monkeypatch.setattr("nvlm_trt.vision.tensorrt_builder.gpu_compute_capability", lambda: "9.0")
    with pytest.raises(BuildError, match=r"E-BUILD-SM.*9\.0, not 8\.9"):
        build_plan(FULL, exported, small_checkpoint, (1, 1, 1), tmp_path / "vision.plan", compute_capabilities=["8.9"])
    cache = tmp_path / "timing.cache"
    info = build_plan(FULL, exported, small_checkpoint, (2, 2, 2), tmp_path / "vision.plan", timing_cache=cache)
    assert (info.module, info.compute_capabilities, info.profile) == ("tensorrt", ("9.0",), (2, 2, 2))
    assert read_plan_info(tmp_path) == info
    assert cache.read_bytes() == b"timings"


def test_a_machine_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch):
    def no_driver(_name: str) -> None:
        raise OSError

    monkeypatch.setattr("ctypes.CDLL", no_driver)
    with pytest.raises(MissingToolError, match="E-TOOL-GPU"):
        tensorrt_module.gpu_compute_capability()
