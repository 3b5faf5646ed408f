"""FP8 graphs as they are exported, run and compiled."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.safetensors_file import SafetensorsFile
from nvlm_trt.errors import ArtefactError, BuildError, CheckpointError, UsageError
from nvlm_trt.reference.vision import VisionReference
from nvlm_trt.vision.artefact import GraphInfo, read_graph
from nvlm_trt.vision.dtype import ONNX_DTYPE, GraphDtype
from nvlm_trt.vision.dummy_heads import strip_dummy_heads
from nvlm_trt.vision.export import export_vision
from nvlm_trt.vision.fp8_calibration import VisionCalibration
from nvlm_trt.vision.linears import linears
from nvlm_trt.vision.onnxruntime_engine import OnnxRuntimeEngine
from nvlm_trt.vision.registry import build_engine
from tests.vision.altered import AlteredCheckpoint

FC1 = "vision_model.encoder.layers.1.mlp.fc1"
QKV = "vision_model.encoder.layers.1.attn.qkv"


@pytest.fixture(scope="module")
def in_fp8(checkpoint: Checkpoint, calibration: VisionCalibration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All linears of the small checkpoint in FP8."""
    folder = tmp_path_factory.mktemp("exports") / "fp8"
    export_vision(checkpoint, folder, quantization=calibration, exclude=())
    return folder


def relative_error(rows: NDArray[Any], wanted: NDArray[Any]) -> float:
    return float(np.linalg.norm(rows - wanted) / np.linalg.norm(wanted))


def constants(folder: Path) -> dict[str, float]:
    """The graph's scales by name."""
    tensors = [tensor for tensor in read_graph(folder).graph.initializer if tensor.name.endswith("_scale")]
    return {tensor.name: float(numpy_helper.to_array(tensor)) for tensor in tensors}


def test_stored_weights_restore_the_checkpoints_within_e4m3s_spacing(checkpoint: Checkpoint, in_fp8: Path):
    side, scales = SafetensorsFile(in_fp8 / "weights.safetensors"), constants(in_fp8)
    for name in linears(checkpoint.config.vision):
        wanted = strip_dummy_heads(f"{name}.weight", checkpoint.read(f"{name}.weight"), checkpoint.config.vision)
        wanted = wanted.astype(np.float32)
        stored = side.read(f"{name}.weight")
        assert stored.dtype == ml_dtypes.float8_e4m3fn
        scale = scales[f"{name}.weight_scale"]
        # Three bits of fraction: half a step is a sixteenth of the value, or of the smallest normal number.
        allowed = np.maximum(np.abs(wanted), scale * 2**-6) / 16
        assert (np.abs(stored.astype(np.float32) * scale - wanted) <= allowed * (1 + 1e-6)).all()
        assert np.abs(stored.astype(np.float32)).max() == 448


def test_the_calibrated_ranges_stand_in_the_graph(checkpoint: Checkpoint, calibration: VisionCalibration, in_fp8: Path):
    scales = constants(in_fp8)
    assert len(scales) == 2 * len(calibration.amax)
    for name, amax in calibration.amax.items():
        assert scales[f"{name}.input_scale"] == pytest.approx(amax / 448, rel=2**-8)


def test_the_projector_stays_unless_it_is_asked_for(
    checkpoint: Checkpoint, calibration: VisionCalibration, exported: Path, tmp_path: Path
):
    seen: list[tuple[int, int, str]] = []
    report = export_vision(checkpoint, tmp_path, quantization=calibration, progress=lambda *step: seen.append(step))
    index = json.loads((tmp_path / "weights.json").read_text())
    assert index["mlp1.1.weight"] == {"file": "checkpoint"}
    assert set(report.quantized) == {name for name in calibration.amax if not name.startswith("mlp1.")}
    assert seen[-1] == (report.written_bytes, report.written_bytes, "B")
    assert read_graph(tmp_path).ByteSize() < 2 * read_graph(exported).ByteSize()
    assert GraphInfo.of(read_graph(tmp_path)) == GraphInfo.of(read_graph(exported))


def test_twice_the_same_bytes(checkpoint: Checkpoint, calibration: VisionCalibration, in_fp8: Path, tmp_path: Path):
    export_vision(checkpoint, tmp_path, quantization=VisionCalibration.from_json(calibration.to_json()), exclude=())
    for file in in_fp8.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_memory_does_not_grow_with_the_model(checkpoint: Checkpoint, calibration: VisionCalibration, tmp_path: Path):
    largest = max(checkpoint.info(f"{name}.weight").nbytes for name in calibration.amax)
    tracemalloc.start()
    try:
        export_vision(checkpoint, tmp_path, quantization=calibration, exclude=())
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2 * largest + 2_000_000  # the cast's table and the graph


@contextmanager
def rounding_linears(reference: VisionReference, amax: dict[str, float]) -> Iterator[None]:
    """The torch reference with every linear's input and weight rounded through torch's own e4m3."""

    def rounded(tensor: torch.Tensor, largest: float) -> torch.Tensor:
        scale = (torch.tensor(largest) / 448).bfloat16().float()
        return (tensor / scale).to(torch.float8_e4m3fn).float() * scale

    modules = dict(reference.named_modules())
    weights, handles = {}, []
    try:
        for name, largest in amax.items():
            weights[name] = modules[name].weight.data
            modules[name].weight.data = rounded(weights[name], float(weights[name].abs().max()))
            handles.append(
                modules[name].register_forward_pre_hook(lambda _, inputs, largest=largest: rounded(inputs[0], largest))
            )
        yield
    finally:
        for handle in handles:
            handle.remove()
        for name, weight in weights.items():
            modules[name].weight.data = weight


def test_the_error_is_that_of_a_torch_tower_that_rounds_its_linears(
    calibration: VisionCalibration,
    in_fp8: Path,
    small_checkpoint: Path,
    reference: VisionReference,
    real_tiles: NDArray[np.uint8],
):
    """As large, but not the same: a value on the border of two e4m3 numbers, rounded apart once, moves all behind
    it over more borders, and after a few layers two correct implementations differ as much as either from the truth.
    """
    plain = reference(real_tiles).numpy()
    with rounding_linears(reference, dict(calibration.amax)):
        wanted = reference(real_tiles).numpy()
    rows = OnnxRuntimeEngine(in_fp8, small_checkpoint, 7, threads=1).encode(real_tiles)
    assert relative_error(rows, plain) == pytest.approx(relative_error(wanted, plain), rel=0.1)
    np.testing.assert_array_equal(reference(real_tiles).numpy(), plain)


@pytest.mark.parametrize("linear", ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "mlp1.1", "mlp1.3"])
def test_a_linear_alone_gives_the_rows_of_a_torch_tower_that_rounds_it(
    checkpoint: Checkpoint,
    calibration: VisionCalibration,
    reference: VisionReference,
    real_tiles: NDArray[np.uint8],
    linear: str,
    tmp_path: Path,
):
    name = linear if linear.startswith("mlp1") else f"vision_model.encoder.layers.2.{linear}"
    others = [other for other in calibration.amax if other != name]
    report = export_vision(checkpoint, tmp_path, quantization=calibration, exclude=others)
    assert report.quantized == (name,)
    plain = reference(real_tiles).numpy()
    with rounding_linears(reference, {name: calibration.amax[name]}):
        wanted = reference(real_tiles).numpy()
    rows = OnnxRuntimeEngine(tmp_path, checkpoint.root, 7, threads=1).encode(real_tiles)
    assert relative_error(rows, wanted) < relative_error(rows, plain) / 10


@pytest.mark.parametrize("dtype", sorted(set(ONNX_DTYPE) - {"bfloat16"}))
def test_other_dtypes_give_the_same_rows_but_for_the_scales_rounding(
    checkpoint: Checkpoint,
    calibration: VisionCalibration,
    engine: OnnxRuntimeEngine,
    real_tiles: NDArray[np.uint8],
    dtype: GraphDtype,
    tmp_path: Path,
):
    export_vision(checkpoint, tmp_path, dtype, quantization=calibration)
    rows = OnnxRuntimeEngine(tmp_path, checkpoint.root, 7, threads=1).encode(real_tiles)
    assert relative_error(rows, engine.encode(real_tiles)) < 0.05


def test_a_wrong_calibration_shows(
    checkpoint: Checkpoint,
    calibration: VisionCalibration,
    engine: OnnxRuntimeEngine,
    real_tiles: NDArray[np.uint8],
    tmp_path: Path,
):
    """Ranges that clip the activations to a thirty-second."""
    amax = {name: value / 32 for name, value in calibration.amax.items()}
    narrow = VisionCalibration(amax, calibration.checkpoint, 1, "")
    export_vision(checkpoint, tmp_path, quantization=narrow)
    rows = OnnxRuntimeEngine(tmp_path, checkpoint.root, 7, threads=1).encode(real_tiles)
    assert relative_error(rows, engine.encode(real_tiles)) > 0.2


def test_what_cannot_be_asked_for_is_refused_before_anything_is_written(
    checkpoint: Checkpoint, calibration: VisionCalibration, tmp_path: Path
):
    with pytest.raises(UsageError, match="E-RECIPE-EXCLUDE"):
        export_vision(checkpoint, tmp_path, quantization=calibration, exclude=["*.attn.qvk"])
    with pytest.raises(UsageError, match=r"E-RECIPE-EXCLUDE.*not asked for"):
        export_vision(checkpoint, tmp_path, exclude=["*.fc1"])
    other = VisionCalibration(calibration.amax, "another", 1, "")
    with pytest.raises(ArtefactError, match="E-ARTEFACT-CALIBRATION"):
        export_vision(checkpoint, tmp_path, quantization=other)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_no_scale_fits_are_refused_and_nothing_is_left(
    checkpoint: Checkpoint, calibration: VisionCalibration, tmp_path: Path, value: float
):
    def last(array: NDArray[Any]) -> None:
        array[-1, -1] = value

    altered = AlteredCheckpoint(checkpoint, [f"{FC1}.weight"], last)
    with pytest.raises(CheckpointError, match=f"E-CKPT-NAN.*{FC1}"):
        export_vision(altered, tmp_path, quantization=calibration)
    assert list(tmp_path.iterdir()) == []


def test_an_altered_fp8_weight_reaches_no_answer_unnoticed_when_it_is_not_a_number(
    in_fp8: Path, small_checkpoint: Path, tmp_path: Path, real_tiles: NDArray[np.uint8]
):
    for file in in_fp8.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    place = SafetensorsFile(tmp_path / "weights.safetensors").info(f"{QKV}.weight").place
    assert place is not None
    data = bytearray((tmp_path / "weights.safetensors").read_bytes())
    data[place.offset] = 0x7F  # e4m3's NaN
    (tmp_path / "weights.safetensors").write_bytes(data)
    engine = OnnxRuntimeEngine(tmp_path, small_checkpoint, 7, threads=1)
    with pytest.raises(ArtefactError, match="E-ENGINE-NAN"):
        engine.encode(real_tiles)


@pytest.fixture(scope="module")
def plan(in_fp8: Path, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("plan") / "vision.plan"
    build_engine("tensorrt_rtx", in_fp8, small_checkpoint, (1, 2, 4), file, compute_capabilities=["8.9"])
    return file.read_bytes()


def test_every_linear_is_one_fp8_gemm_and_every_attention_one_kernel(plan: bytes, checkpoint: Checkpoint, in_fp8: Path):
    """A GEMM that takes in both DequantizeLinears multiplies e4m3; one that does not gets restored values."""
    kernels = [set(re.findall(rb"ONNX Layer: ([^\]]+)", layers)) for layers in re.findall(rb'layers="([^"]*)"', plan)]
    names = [node.name for node in read_graph(in_fp8).graph.node]
    restored = [name.rpartition("/")[0].encode() for name in names if name.endswith("/DequantizeLinear.2")]
    assert len(restored) == len(linears(checkpoint.config.vision))
    for scope in restored:
        multiplying = [kernel for kernel in kernels if scope + b"/MatMul" in kernel]
        assert len(multiplying) == 1
        assert {scope + b"/DequantizeLinear", scope + b"/DequantizeLinear.2"} <= multiplying[0]
    assert len(re.findall(rb"function=\{ name=_gemm_mha", plan)) == checkpoint.config.vision.num_layers


def test_weights_lie_in_the_plan_as_fp8(plan: bytes, in_fp8: Path):
    side = SafetensorsFile(in_fp8 / "weights.safetensors")
    stored = [side.read(name) for name in side.names() if side.info(name).dtype == "F8_E4M3"]
    assert all(array.tobytes()[:256] in plan for array in stored)


def test_a_gpu_without_fp8_is_refused(in_fp8: Path, small_checkpoint: Path, tmp_path: Path):
    with pytest.raises(BuildError, match="E-BUILD-SM"):
        build_engine(
            "tensorrt_rtx", in_fp8, small_checkpoint, (1, 1, 1), tmp_path / "plan", compute_capabilities=["8.0"]
        )
