"""The engine class over a stand-in for TensorRT's runtime (see ``fake_tensorrt``): shapes, addresses, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nvlm_trt.errors import ArtefactError, RequestError
from nvlm_trt.serving.tile_batcher import TileBatcher
from nvlm_trt.vision.onnxruntime_engine import OnnxRuntimeEngine
from nvlm_trt.vision.plan import PlanInfo
from nvlm_trt.vision.tensorrt_engine import TensorRtEngine
from nvlm_trt.vision.tensorrt_module import TENSORRT_KINDS
from tests.vision.fake_tensorrt import FAKE_VERSION, FakeGpu, plan_bytes, runtime

KIND = TENSORRT_KINDS["tensorrt"]


@pytest.fixture
def folder(tmp_path: Path, exported: Path, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A vision folder with a plan for the stand-in."""
    monkeypatch.setattr("nvlm_trt.vision.tensorrt_engine.load_tensorrt", runtime)
    monkeypatch.setattr("nvlm_trt.vision.tensorrt_engine.gpu_compute_capability", lambda: "9.0")
    plan = plan_bytes(exported, small_checkpoint)
    describe(tmp_path, plan)
    return tmp_path


def describe(folder: Path, plan: bytes, **changes: object) -> None:
    info = PlanInfo("tensorrt", FAKE_VERSION, ("9.0",), (1, 2, 4), 112, 16, 256, "bfloat16", len(plan))
    (folder / "vision.plan").write_bytes(plan)
    (folder / "vision.plan.json").write_text(dataclasses.replace(info, **changes).to_json())  # type: ignore[arg-type]


def test_rows_come_out_as_a_torch_tensor_in_the_decoders_dtype(
    folder: Path, engine: OnnxRuntimeEngine, random_tiles: NDArray[np.uint8]
):
    tensorrt = TensorRtEngine(KIND, folder, 4, device="cpu")
    assert (tensorrt.tile_shape, tensorrt.max_tiles) == (engine.tile_shape, 4)
    assert (tensorrt.tokens_per_tile, tensorrt.output_size) == (engine.tokens_per_tile, engine.output_size)
    for num_tiles in (4, 1):
        rows = tensorrt.encode(random_tiles[:num_tiles])
        assert rows.dtype == torch.bfloat16
        torch.testing.assert_close(rows, torch.from_numpy(engine.encode(random_tiles[:num_tiles])).bfloat16())
    tensorrt.close()


@pytest.mark.parametrize("shape", [(0, 112, 112, 3), (5, 112, 112, 3), (1, 112, 111, 3)])
def test_other_tiles_are_refused(folder: Path, shape: tuple[int, ...]):
    tensorrt = TensorRtEngine(KIND, folder, 4, device="cpu")
    with pytest.raises(RequestError, match="E-IMAGE-TILES"):
        tensorrt.encode(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"version": "10.9.0"}, "E-ENGINE-VERSION"),
        ({"module": "tensorrt_rtx"}, "E-ENGINE-VERSION"),
        ({"compute_capabilities": ("8.9",)}, "E-ENGINE-SM"),
        ({"profile": (1, 2, 3)}, "E-ENGINE-PROFILE"),
        ({"plan_bytes": 1}, "E-ARTEFACT-PLAN"),
    ],
)
def test_a_plan_for_elsewhere_is_refused(folder: Path, changes: dict[str, object], code: str):
    describe(folder, (folder / "vision.plan").read_bytes(), **changes)
    with pytest.raises(ArtefactError, match=code):
        TensorRtEngine(KIND, folder, 4, device="cpu")


# Seen in TensorRT's logs: its allocator, the CUDA runtime, an executor that needed scratch memory.
COMPLAINTS = [
    "[defaultAllocator.cpp::allocateAsync::48] Error Code 1: Cuda Runtime (out of memory)",
    "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (cudaErrorMemoryAllocation)",
    "Error Code 2: OutOfMemory (Requested size was 5368709120 bytes.)",
    "Requested amount of GPU memory (5368709120 bytes) could not be allocated.",
]


@pytest.mark.parametrize("complaint", COMPLAINTS)
def test_memory_that_tensorrt_lacks_halves_the_batch(
    folder: Path,
    engine: OnnxRuntimeEngine,
    random_tiles: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
    complaint: str,
):
    gpu = FakeGpu(room_tiles=2, complaint=complaint)
    monkeypatch.setattr("nvlm_trt.vision.tensorrt_engine.load_tensorrt", lambda kind: runtime(kind, gpu))
    batcher = TileBatcher(TensorRtEngine(KIND, folder, 4, device="cpu"))
    rows = batcher.submit(random_tiles[:4]).result(60)
    torch.testing.assert_close(rows, torch.from_numpy(engine.encode(random_tiles[:4])).bfloat16())
    assert gpu.calls == [4, 2, 2]
    gpu.room_tiles = 0
    with pytest.raises(ArtefactError, match="E-ENGINE-MEMORY"):
        batcher.submit(random_tiles[:2]).result(60)
    gpu.room_tiles = 4
    assert len(batcher.submit(random_tiles[:4]).result(60)) == 4
    batcher.close()


def test_a_failure_of_another_kind_is_not_taken_for_it(
    folder: Path, random_tiles: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
):
    gpu = FakeGpu(room_tiles=2, complaint="Error Code 1: Cuda Runtime (an illegal memory access was encountered)")
    monkeypatch.setattr("nvlm_trt.vision.tensorrt_engine.load_tensorrt", lambda kind: runtime(kind, gpu))
    tensorrt = TensorRtEngine(KIND, folder, 4, device="cpu")
    with pytest.raises(ArtefactError, match="E-ENGINE-RUN"):
        tensorrt.encode(random_tiles[:4])
    assert gpu.calls == [4]


@pytest.mark.parametrize("message", ["CUDA error: out of memory", "CUDA out of memory. Tried to allocate 20.00 MiB"])
def test_memory_that_pytorch_lacks(
    folder: Path, random_tiles: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, message: str
):
    def none_left(*_arguments: object, **_options: object) -> None:
        raise RuntimeError(message)

    tensorrt = TensorRtEngine(KIND, folder, 4, device="cpu")
    monkeypatch.setattr(torch, "empty", none_left)
    with pytest.raises(ArtefactError, match="E-ENGINE-MEMORY"):
        tensorrt.encode(random_tiles[:4])


def test_an_engine_too_large_for_the_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch):
    gpu = FakeGpu(room_tiles=-1, complaint=COMPLAINTS[0])
    monkeypatch.setattr("nvlm_trt.vision.tensorrt_engine.load_tensorrt", lambda kind: runtime(kind, gpu))
    with pytest.raises(ArtefactError, match="E-ENGINE-MEMORY"):
        TensorRtEngine(KIND, folder, 4, device="cpu")


def test_a_plan_that_cannot_be_loaded_is_refused_in_our_words(folder: Path):
    describe(folder, b"\x00garbage")
    with pytest.raises(ArtefactError, match="E-ENGINE-LOAD") as caught:
        TensorRtEngine(KIND, folder, 4, device="cpu")
    assert "0x" not in str(caught.value)
