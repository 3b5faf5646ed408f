"""What tools of others make of the exported graphs, FP8 and not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.vision.dtype import ONNX_DTYPE, GraphDtype
from nvlm_trt.vision.export import export_vision
from nvlm_trt.vision.fp8_calibration import VisionCalibration


@pytest.mark.parametrize("dtype", sorted(ONNX_DTYPE))
def test_fp8_graphs_pass_the_full_check_beside_their_shards(
    checkpoint: Checkpoint, calibration: VisionCalibration, dtype: GraphDtype, tmp_path: Path
):
    export_vision(checkpoint, tmp_path, dtype, quantization=calibration, exclude=())
    for shard in checkpoint.root.glob("*.safetensors"):
        shutil.copy(shard, tmp_path)
    onnx.checker.check_model(str(tmp_path / "vision.onnx"), full_check=True)


def test_polygraphy_reads_the_graph(exported: Path, checkpoint: Checkpoint, tmp_path: Path):
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    for shard in checkpoint.root.glob("*.safetensors"):
        shutil.copy(shard, tmp_path)
    done = subprocess.run(
        [Path(sys.executable).with_name("polygraphy"), "inspect", "model", "vision.onnx"],
        cwd=tmp_path,
        env={**os.environ, "POLYGRAPHY_AUTOINSTALL_DEPS": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ONNX Opset: 20" in done.stdout
    assert re.search(r"tiles \[dtype=uint8, shape=\('tiles', 112, 112, 3\)\]", done.stdout)
    assert re.search(r"rows \[dtype=\S*bfloat16\S*, shape=\('tiles', 16, 256\)\]", done.stdout, re.IGNORECASE)
