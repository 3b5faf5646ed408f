from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.safetensors_file import SafetensorsFile
from nvlm_trt.errors import BuildError, CheckpointError
from nvlm_trt.vision.artefact import read_graph
from nvlm_trt.vision.dtype import NUMPY_DTYPE, ONNX_DTYPE, GraphDtype
from nvlm_trt.vision.export import export_vision
from nvlm_trt.vision.graph import parameters
from tests.vision.altered import AlteredCheckpoint

QKV = "vision_model.encoder.layers.1.attn.qkv.weight"
FC1 = "vision_model.encoder.layers.1.mlp.fc1.weight"


def test_three_files_and_nothing_else(exported: Path):
    assert sorted(file.name for file in exported.iterdir()) == ["vision.onnx", "weights.json", "weights.safetensors"]


def test_only_what_must_change_is_written(checkpoint: Checkpoint, exported: Path, tmp_path: Path):
    counting = AlteredCheckpoint(checkpoint)
    report = export_vision(counting, tmp_path)
    changed = sorted(
        f"vision_model.encoder.layers.{index}.attn.{name}.weight"
        for index in range(checkpoint.config.vision.num_layers)
        for name in ("qkv", "q_norm", "k_norm", "proj")
    )
    index = json.loads((tmp_path / "weights.json").read_text())
    assert sorted(counting.reads) == list(SafetensorsFile(tmp_path / "weights.safetensors").names()) == changed
    assert list(index) == sorted(parameters(read_graph(tmp_path)))
    assert sorted(name for name, entry in index.items() if entry == {"file": "side"}) == changed
    assert {entry["file"] for entry in index.values()} == {"checkpoint", "side"}
    assert (report.num_written, report.num_pointed) == (len(changed), len(index) - len(changed))
    assert report.rounded == ()
    assert counting.dropped == counting.reads, "each tensor's pages are given back before the next is read"


def test_the_same_checkpoint_gives_the_same_bytes_that_name_no_place(
    checkpoint: Checkpoint, exported: Path, tmp_path: Path
):
    export_vision(checkpoint, tmp_path)
    for file in exported.iterdir():
        content = file.read_bytes()
        assert (tmp_path / file.name).read_bytes() == content
        assert str(checkpoint.root).encode() not in content
        assert str(exported).encode() not in content


@pytest.mark.parametrize("dtype", sorted(ONNX_DTYPE))
def test_any_onnx_tool_reads_the_graph_beside_the_shards(checkpoint: Checkpoint, dtype: GraphDtype, tmp_path: Path):
    report = export_vision(checkpoint, tmp_path, dtype)
    for shard in checkpoint.root.glob("*.safetensors"):
        shutil.copy(shard, tmp_path)
    onnx.checker.check_model(str(tmp_path / "vision.onnx"), full_check=True)
    model = onnx.load(str(tmp_path / "vision.onnx"))
    for name in ("mlp1.3.weight", QKV, FC1):
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        wanted = checkpoint.read(name)
        if name == QKV:
            vision = checkpoint.config.vision
            by_kind = wanted.reshape(3, vision.padded_width, vision.hidden_size)
            wanted = by_kind[:, : vision.hidden_size].reshape(-1, vision.hidden_size)
        values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        np.testing.assert_array_equal(values, wanted.astype(np.float32).astype(NUMPY_DTYPE[dtype]).astype(np.float32))
    assert (report.num_pointed == 0) == (dtype == "float16")


def test_progress_counts_the_bytes_it_writes(checkpoint: Checkpoint, tmp_path: Path):
    seen: list[tuple[int, int, str]] = []
    report = export_vision(checkpoint, tmp_path, progress=lambda *step: seen.append(step))
    done = [step[0] for step in seen]
    assert done == sorted(set(done))
    assert done[-1] == report.written_bytes
    assert {step[1:] for step in seen} == {(report.written_bytes, "B")}


def test_memory_does_not_grow_with_the_model(checkpoint: Checkpoint, tmp_path: Path):
    largest = max(checkpoint.info(name).nbytes for name in checkpoint.names() if ".attn." in name)
    tracemalloc.start()
    try:
        export_vision(checkpoint, tmp_path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2 * largest < (tmp_path / "weights.safetensors").stat().st_size * 2


def test_a_dummy_head_that_is_not_zero_is_refused_and_nothing_is_left(checkpoint: Checkpoint, tmp_path: Path):
    def last(array: NDArray[Any]) -> None:
        array[-1, -1] = 1e-6

    with pytest.raises(CheckpointError, match=f"E-CKPT-DUMMY.*{QKV}"):
        export_vision(AlteredCheckpoint(checkpoint, [QKV], last), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "dtype", "code"),
    [(np.nan, "bfloat16", "E-CKPT-NAN"), (np.inf, "bfloat16", "E-CKPT-NAN"), (1e6, "float16", "E-CKPT-RANGE")],
)
def test_values_no_graph_can_use_are_refused(
    checkpoint: Checkpoint, tmp_path: Path, value: float, dtype: GraphDtype, code: str
):
    def first(array: NDArray[Any]) -> None:
        array[0, 0] = value

    with pytest.raises(CheckpointError, match=f"{code}.*{QKV}"):
        export_vision(AlteredCheckpoint(checkpoint, [QKV], first), tmp_path, dtype)


def test_a_tensor_that_loses_precision_is_reported(checkpoint: Checkpoint, tmp_path: Path):
    def first(array: NDArray[Any]) -> None:
        array[0, 0] = 1 + 2**-20

    assert export_vision(AlteredCheckpoint(checkpoint, [QKV], first), tmp_path).rounded == (QKV,)


def test_a_folder_that_cannot_be_written_is_a_build_error(checkpoint: Checkpoint, tmp_path: Path):
    (tmp_path / "weights.json").mkdir()
    with pytest.raises(BuildError, match=r"E-BUILD-WRITE: weights\.json"):
        export_vision(checkpoint, tmp_path)
    assert not list(tmp_path.glob("*.partial"))
