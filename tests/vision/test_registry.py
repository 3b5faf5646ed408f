from __future__ import annotations

import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nvlm_trt.errors import MissingToolError, UsageError
from nvlm_trt.pipeline.recipe import VisionRecipe
from nvlm_trt.vision.engine import VisionEngine
from nvlm_trt.vision.onnxruntime_engine import OnnxRuntimeEngine
from nvlm_trt.vision.registry import BACKENDS, build_engine, load_engine


def test_recipes_and_the_registry_know_the_same_engines():
    assert set(typing.get_args(VisionRecipe.model_fields["engine"].annotation)) == set(BACKENDS)


def test_an_engine_by_name(
    exported: Path, small_checkpoint: Path, engine: OnnxRuntimeEngine, random_tiles: NDArray[np.uint8]
):
    by_name: VisionEngine = load_engine("onnxruntime", exported, small_checkpoint, 2, threads=1)
    assert by_name.max_tiles == 2
    assert by_name.encode(random_tiles[:2]).tobytes() == engine.encode(random_tiles[:2]).tobytes()
    by_name.close()


def test_an_engine_without_a_plan_has_nothing_to_build(exported: Path, small_checkpoint: Path):
    before = sorted(exported.iterdir())
    build_engine("onnxruntime", exported, small_checkpoint, (1, 2, 3))
    assert sorted(exported.iterdir()) == before


def test_an_unknown_name_is_a_usage_error(tmp_path: Path):
    for call in (
        lambda: load_engine("openvino", tmp_path, tmp_path, 1),
        lambda: build_engine("openvino", tmp_path, tmp_path, (1, 1, 1)),
    ):
        with pytest.raises(UsageError, match=r"E-USAGE-ENGINE.*onnxruntime, tensorrt, tensorrt_rtx"):
            call()


def test_a_missing_tensorrt_says_how_to_get_it(
    exported: Path, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingToolError, match=r"E-TOOL-TENSORRT.*container"):
        build_engine("tensorrt", exported, small_checkpoint, (1, 2, 3), tmp_path / "vision.plan")
    with pytest.raises(MissingToolError, match=r"E-TOOL-TENSORRT.*pip install 'nvlm-trt\[rtx\]'"):
        build_engine("tensorrt_rtx", exported, small_checkpoint, (1, 2, 3), tmp_path / "vision.plan")


def test_importing_the_package_loads_neither_torch_nor_tensorrt():
    script = (
        "import sys\n"
        "import nvlm_trt.vision.registry, nvlm_trt.vision.export, nvlm_trt.vision.onnxruntime_engine\n"
        "import nvlm_trt.vision.tensorrt_builder, nvlm_trt.vision.tensorrt_engine\n"
        "print(sorted({'torch', 'tensorrt', 'tensorrt_rtx', 'polygraphy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
