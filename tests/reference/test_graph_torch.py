"""The graph in torch, operator by operator, against ONNX Runtime on the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.reference.graph_torch import TorchGraph
from nvlm_trt.vision.artefact import read_graph
from nvlm_trt.vision.dtype import GraphDtype
from nvlm_trt.vision.export import export_vision
from nvlm_trt.vision.fp8_calibration import calibrate_vision
from nvlm_trt.vision.onnxruntime_engine import OnnxRuntimeEngine
from nvlm_trt.vision.parity import links_for
from nvlm_trt.vision.weights import map_weights


@pytest.fixture(scope="module")
def checkpoint(small_checkpoint: Path) -> Checkpoint:
    return open_checkpoint(small_checkpoint)


@pytest.fixture(scope="module")
def tiles(checkpoint: Checkpoint) -> NDArray[np.uint8]:
    side = checkpoint.config.vision.image_size
    return np.random.default_rng(4).integers(0, 256, (2, side, side, 3), dtype=np.uint8)


def tensor(array: NDArray[Any]) -> torch.Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    if array.dtype == ml_dtypes.float8_e4m3fn:
        return torch.from_numpy(array.view(np.uint8).copy()).view(torch.float8_e4m3fn)
    return torch.from_numpy(array.copy())


def error_of(folder: Path, checkpoint_folder: Path, tiles: NDArray[np.uint8], dtype: GraphDtype) -> float:
    model = read_graph(folder)
    weights = {name: tensor(array) for name, array in map_weights(model, folder, checkpoint_folder).items()}
    rows = TorchGraph(model, weights)(torch.from_numpy(tiles))
    assert rows.dtype == getattr(torch, dtype)
    wanted = OnnxRuntimeEngine(folder, checkpoint_folder, len(tiles)).encode(tiles)
    return float(np.linalg.norm(rows.float().numpy() - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_rows_are_onnx_runtimes_but_for_the_dtypes_rounding(
    checkpoint: Checkpoint, tiles: NDArray[np.uint8], tmp_path: Path, dtype: GraphDtype
):
    export_vision(checkpoint, tmp_path, dtype)
    link = next(link for link in links_for(dtype) if dtype in link.seen)
    assert error_of(tmp_path, checkpoint.root, tiles, dtype) <= link.tolerance(checkpoint.config.vision.num_layers)


def test_fp8_linears_round_as_in_onnx_runtime(checkpoint: Checkpoint, tiles: NDArray[np.uint8], tmp_path: Path):
    """One linear, because two programs that round apart once go on apart."""
    calibration = calibrate_vision(checkpoint, tiles)
    others = [name for name in calibration.amax if name != "vision_model.encoder.layers.3.mlp.fc2"]
    export_vision(checkpoint, tmp_path / "fp8", "float32", quantization=calibration, exclude=others)
    export_vision(checkpoint, tmp_path / "plain", "float32")
    assert error_of(tmp_path / "fp8", checkpoint.root, tiles, "float32") < 1e-3
    plain, in_fp8 = (OnnxRuntimeEngine(tmp_path / name, checkpoint.root, 2).encode(tiles) for name in ("plain", "fp8"))
    assert np.linalg.norm(in_fp8 - plain) / np.linalg.norm(plain) > 2e-3
