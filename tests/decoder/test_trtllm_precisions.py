"""TensorRT-LLM checkpoints at other precisions: float16, excluded linears, none quantised, an FP8 cache."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.safetensors_file import SafetensorsFile
from nvlm_trt.decoder.calibration import Calibration
from nvlm_trt.decoder.trtllm_checkpoint import write_trtllm_checkpoint
from nvlm_trt.errors import ArtefactError, UsageError
from tests.decoder.altered import Altered
from tests.decoder.writing import LAYER, Write, tensors_of


def test_a_float16_model_is_written_in_float16(write: Write, checkpoint: Checkpoint) -> None:
    folder, _ = write(source=Altered(checkpoint, dtype="float16"))
    assert SafetensorsFile(folder / "rank0.safetensors").info("lm_head.weight").dtype == "F16"
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["dtype"] == "float16"


def test_excluded_linears_hold_the_releases_values_and_no_scales(write: Write, checkpoint: Checkpoint) -> None:
    folder, report = write(tp=2, exclude=["*.layers.1.attention.qkv", "*.2.mlp.*"])
    whole = tensors_of(write("whole", tp=2)[0] / "rank1.safetensors")
    tensors = tensors_of(folder / "rank1.safetensors")
    excluded = [f"transformer.layers.{name}" for name in ("1.attention.qkv", "2.mlp.fc", "2.mlp.gate", "2.mlp.proj")]
    scales = {f"{name}.{kind}_scaling_factor" for name in excluded for kind in ("weights", "activation")}
    assert whole.keys() - tensors.keys() == scales
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["quantization"]["exclude_modules"] == ["lm_head", *excluded]
    up = checkpoint.read("language_model.model.layers.2.mlp.up_proj.weight")
    assert tensors["transformer.layers.2.mlp.gate.weight"].tobytes() == up[len(up) // 2 :].tobytes()
    qkv = tensors["transformer.layers.1.attention.qkv.weight"]
    halves = [np.split(checkpoint.read(f"{LAYER}self_attn.{name}_proj.weight"), 2)[1] for name in "qkv"]
    assert np.array_equal(qkv, np.concatenate(halves).astype(ml_dtypes.bfloat16))
    for name in tensors.keys() - {f"{name}.weight" for name in excluded}:
        assert tensors[name].tobytes() == whole[name].tobytes()
    assert report.notes == ()


def test_without_quantisation_every_tensor_is_the_releases_and_no_calibration_is_needed(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    write_trtllm_checkpoint(checkpoint, None, tmp_path, quantization="none")
    opened = SafetensorsFile(tmp_path / "rank0.safetensors")
    assert {opened.info(name).dtype for name in opened.names()} == {"BF16"}
    down = checkpoint.read(f"{LAYER}mlp.down_proj.weight")
    assert opened.read("transformer.layers.1.mlp.proj.weight").tobytes() == down.tobytes()
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["quantization"] == {"quant_algo": None, "kv_cache_quant_algo": None, "exclude_modules": None}


def test_an_fp8_cache_gets_one_scale_a_layer_that_is_never_below_one(
    checkpoint: Checkpoint, calibration: Calibration, tmp_path: Path
) -> None:
    wide = dataclasses.replace(calibration.layers[2], k_cache=448.0, v_cache=896.0)
    layers = (*calibration.layers[:2], wide, *calibration.layers[3:])
    calibration = dataclasses.replace(calibration, layers=layers)
    write_trtllm_checkpoint(checkpoint, calibration, tmp_path, kv_cache="fp8", tp=2)
    for rank in range(2):
        tensors = tensors_of(tmp_path / f"rank{rank}.safetensors")
        scales = [tensors[f"transformer.layers.{layer}.attention.kv_cache_scaling_factor"] for layer in range(4)]
        assert [scale.tolist() for scale in scales] == [[1.0], [1.0], [2.0], [1.0]]
        assert [scale[0] for scale in scales] == [calibration.kv_scale(layer) for layer in range(4)]
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["quantization"]["kv_cache_quant_algo"] == "FP8"


def test_scales_without_a_calibration_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError) as caught:
        write_trtllm_checkpoint(checkpoint, None, tmp_path)
    assert caught.value.code == "E-ARTEFACT-CALIBRATION"


def test_excluding_from_nothing_is_refused(write: Write) -> None:
    with pytest.raises(UsageError, match="E-RECIPE-EXCLUDE: Nothing is quantised"):
        write(quantization="none", exclude=["*.layers.0.*"])


@pytest.mark.parametrize("pattern", ["*.layers.0.mlp.gate", "*.layers.4.*", "*.layers.0.attention.q_proj"])
def test_patterns_that_name_half_a_fusion_or_nothing_are_refused(write: Write, tmp_path: Path, pattern: str) -> None:
    with pytest.raises(UsageError) as caught:
        write(exclude=[pattern])
    assert caught.value.code == "E-RECIPE-EXCLUDE"
    assert not (tmp_path / "out").exists()
