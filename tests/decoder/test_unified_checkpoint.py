"""The unified FP8 Hugging Face checkpoint: bytes against ModelOpt's exporter; a third party loads and runs it."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.safetensors_file import SafetensorsFile
from nvlm_trt.decoder.calibration import Calibration
from nvlm_trt.decoder.conversion import ConversionReport
from nvlm_trt.decoder.trtllm_checkpoint import write_trtllm_checkpoint
from nvlm_trt.decoder.unified_checkpoint import write_unified_checkpoint
from nvlm_trt.errors import CheckpointError, UsageError
from tests.decoder.modelopt_oracle import export_unified_with_modelopt
from tests.decoder.qwen2 import build_qwen2

PREFIX = "language_model."


Write = Callable[..., tuple[Path, ConversionReport]]


@pytest.fixture
def write(checkpoint: Checkpoint, calibration: Calibration, tmp_path: Path) -> Write:
    def write_it(name: str = "out", **options: Any) -> tuple[Path, ConversionReport]:
        return tmp_path / name, write_unified_checkpoint(checkpoint, calibration, tmp_path / name, **options)

    return write_it


def read_json(file: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return data


def tensors_of(folder: Path) -> dict[str, NDArray[Any]]:
    """By the index, as a loader finds them."""
    shard_of = read_json(folder / "model.safetensors.index.json")["weight_map"]
    files = {name: SafetensorsFile(folder / name) for name in set(shard_of.values())}
    return {name: files[shard].read(name) for name, shard in shard_of.items()}


@pytest.mark.parametrize("kv_cache", ["bf16", "fp8"])
def test_the_decoder_is_bit_for_bit_modelopts(
    write: Write, checkpoint: Checkpoint, samples: list[NDArray[np.float32]], tmp_path: Path, kv_cache: str
) -> None:
    export_unified_with_modelopt(checkpoint, samples, tmp_path / "theirs", kv_cache == "fp8")
    opened = SafetensorsFile(tmp_path / "theirs" / "model.safetensors")
    theirs = {name: opened.read(name) for name in opened.names()}
    folder, _ = write(kv_cache=kv_cache)
    ours = {name.removeprefix(PREFIX): t for name, t in tensors_of(folder).items() if name.startswith(PREFIX)}
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (tensor.dtype, tensor.shape)
        if name.endswith("input_scale"):
            # Theirs is measured in bfloat16 here. In float32 the two agree to 1e-5: see the other form's test.
            assert ours[name] == pytest.approx(tensor, rel=0.02)
        elif name.endswith(("k_scale", "v_scale")):
            assert tensor < 1  # theirs is amax / 448 here, ours never below 1, as in the other form
            assert ours[name] == 1
        else:
            assert ours[name].tobytes() == tensor.tobytes(), name


@pytest.mark.parametrize("kv_cache", ["bf16", "fp8"])
def test_what_is_quantised_is_said_as_modelopt_says_it(
    write: Write, checkpoint: Checkpoint, samples: list[NDArray[np.float32]], tmp_path: Path, kv_cache: str
) -> None:
    export_unified_with_modelopt(checkpoint, samples, tmp_path / "theirs", kv_cache == "fp8")
    folder, _ = write(kv_cache=kv_cache)
    excluded = ["lm_head", "model.embed_tokens"]
    ours, theirs = (read_json(path / "hf_quant_config.json") for path in (folder, tmp_path / "theirs"))
    assert theirs["quantization"].pop("exclude_modules") == excluded
    own = ours["quantization"].pop("exclude_modules")
    assert ours["quantization"] == theirs["quantization"]
    ours, theirs = (read_json(path / "config.json")["quantization_config"] for path in (folder, tmp_path / "theirs"))
    assert theirs.pop("ignore") == excluded
    assert ours.pop("ignore") == own
    assert ours.pop("producer") != theirs.pop("producer")
    assert ours == theirs
    assert {f"{PREFIX}{name}" for name in excluded} == {name for name in own if name.startswith(PREFIX)}
    assert {"vision_model", "vision_model*", "mlp1", "mlp1*"} < set(own)


def test_the_vision_half_and_the_documents_are_carried_over(write: Write, checkpoint: Checkpoint) -> None:
    folder, report = write()
    tensors = tensors_of(folder)
    vision = [name for name in checkpoint.names() if not name.startswith(PREFIX)]
    assert vision
    for name in vision:
        assert tensors[name].dtype == checkpoint.read(name).dtype
        assert tensors[name].tobytes() == checkpoint.read(name).tobytes()
    for file in checkpoint.root.iterdir():
        if file.suffix != ".safetensors" and file.name not in ("config.json", "model.safetensors.index.json"):
            assert (folder / file.name).read_bytes() == file.read_bytes()
    config = read_json(folder / "config.json")
    del config["quantization_config"]
    assert config == read_json(checkpoint.root / "config.json")
    assert report.bytes_read == sum(checkpoint.info(name).nbytes for name in checkpoint.names())
    assert report.bytes_written == sum(tensor.nbytes for tensor in tensors.values())
    assert report.notes == ()


def test_shards_stay_below_their_limit_and_agree_with_the_index(write: Write) -> None:
    one, _ = write("one")
    several, _ = write("several", max_shard_bytes=3_000_000)
    index = read_json(several / "model.safetensors.index.json")
    shards = sorted(several.glob("*.safetensors"))
    assert [file.name for file in shards] == [
        f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)
    ]
    assert len(shards) > 3
    for file in shards:
        opened = SafetensorsFile(file)
        assert dict(opened.metadata) == {"format": "pt"}
        assert {name for name, shard in index["weight_map"].items() if shard == file.name} == set(opened.names())
        assert sum(opened.info(name).nbytes for name in opened.names()) <= 3_000_000
    whole, parts = tensors_of(one), tensors_of(several)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in parts.values())
    assert whole.keys() == parts.keys()
    assert all(whole[name].tobytes() == parts[name].tobytes() for name in whole)


def test_excluded_linears_keep_their_values_and_are_named_one_by_one(write: Write, checkpoint: Checkpoint) -> None:
    folder, _ = write(exclude=["*.layers.1.attention.qkv", "*.layers.3.mlp.proj"])
    tensors = tensors_of(folder)
    names = [f"{PREFIX}model.layers.1.self_attn.{part}_proj" for part in "qkv"]
    names.append(f"{PREFIX}model.layers.3.mlp.down_proj")
    for name in names:
        release = checkpoint.read(f"{name}.weight").astype(ml_dtypes.bfloat16)
        assert tensors[f"{name}.weight"].tobytes() == release.tobytes()
        assert f"{name}.weight_scale" not in tensors
        assert f"{name}.input_scale" not in tensors
    listed = read_json(folder / "hf_quant_config.json")["quantization"]["exclude_modules"]
    assert {name for name in listed if ".layers." in name} == set(names)


def test_both_forms_carry_the_same_input_scales(
    write: Write, checkpoint: Checkpoint, calibration: Calibration, tmp_path: Path
) -> None:
    write_trtllm_checkpoint(checkpoint, calibration, tmp_path / "trtllm")
    engine = SafetensorsFile(tmp_path / "trtllm" / "rank0.safetensors")
    unified = tensors_of(write()[0])
    pairs = {
        "attention.qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        "attention.dense": ["self_attn.o_proj"],
        "mlp.fc": ["mlp.gate_proj", "mlp.up_proj"],
        "mlp.proj": ["mlp.down_proj"],
    }
    for layer in range(checkpoint.config.decoder.num_layers):
        for linear, parts in pairs.items():
            fused = f"transformer.layers.{layer}.{linear}"
            own = [unified[f"{PREFIX}model.layers.{layer}.{part}.weight_scale"] for part in parts]
            assert engine.read(f"{fused}.weights_scaling_factor")[0] == max(own)
            for part in parts:
                scale = unified[f"{PREFIX}model.layers.{layer}.{part}.input_scale"]
                assert scale == engine.read(f"{fused}.activation_scaling_factor")[0]


@pytest.mark.parametrize("exclude", [(), ("*.layers.0.mlp.*",)])
def test_transformers_loads_the_decoder_and_answers_from_fp8_weights(
    write: Write, checkpoint: Checkpoint, tmp_path: Path, exclude: tuple[str, ...]
) -> None:
    """Through compressed-tensors, whose scheme this form's ``config_groups`` is; that wants the method's name and the
    defaults written out. It knows no NVLM-D, so it gets the decoder under the decoder's own names.
    """
    folder, _ = write(exclude=exclude)
    stored = {
        name.removeprefix(PREFIX): tensor
        for file in folder.glob("*.safetensors")
        for name, tensor in load_file(file).items()
        if name.startswith(PREFIX)
    }
    (tmp_path / "decoder").mkdir()
    save_file(stored, tmp_path / "decoder" / "model.safetensors", {"format": "pt"})
    quantization = read_json(folder / "config.json")["quantization_config"]
    group = quantization["config_groups"]["group_0"]
    for part in ("weights", "input_activations"):
        group[part] |= {"strategy": "tensor", "symmetric": True}
    reference = build_qwen2(checkpoint, torch.float32)
    config = copy.deepcopy(reference.config)
    config.quantization_config = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": [name.removeprefix(PREFIX) for name in quantization["ignore"]],
    }
    config.save_pretrained(tmp_path / "decoder")
    model, info = transformers.Qwen2ForCausalLM.from_pretrained(
        tmp_path / "decoder", dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    loaded = dict(model.named_parameters())
    scaled = [name.removesuffix("_scale") for name in stored if name.endswith(".weight_scale")]
    assert len(scaled) == 7 * checkpoint.config.decoder.num_layers - 3 * len(exclude)
    for name in scaled:
        assert loaded[name].dtype == torch.float8_e4m3fn
        assert torch.equal(loaded[name].view(torch.uint8), stored[name].view(torch.uint8))
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        logits, exact = model(ids).logits, reference(ids).logits
    error = (logits - exact).norm() / exact.norm()
    assert 0.005 < error < 0.2


def test_a_model_folder_without_a_config_is_refused(
    checkpoint: Checkpoint, calibration: Calibration, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError) as caught:
        write_unified_checkpoint(checkpoint, calibration, tmp_path / "out", model_folder=tmp_path / "empty")
    assert caught.value.code == "E-CONFIG-JSON"
    assert not (tmp_path / "out").exists()


def test_a_pattern_that_matches_nothing_is_refused(write: Write) -> None:
    with pytest.raises(UsageError) as caught:
        write(exclude=["language_model.model.layers.0.mlp.gate_proj"])
    assert caught.value.code == "E-RECIPE-EXCLUDE"


def test_a_float16_model_rounds_its_quotients_to_float16(
    checkpoint: Checkpoint, calibration: Calibration, tmp_path: Path
) -> None:
    class HalfPrecision:
        def __init__(self) -> None:
            self.config = dataclasses.replace(checkpoint.config, dtype="float16")

        def __getattr__(self, name: str) -> Any:
            return getattr(checkpoint, name)

    half: Any = HalfPrecision()
    write_unified_checkpoint(half, calibration, tmp_path)
    tensors = tensors_of(tmp_path)
    name = f"{PREFIX}model.layers.0.mlp.down_proj"
    quotient = checkpoint.read(f"{name}.weight").astype(np.float32) / tensors[f"{name}.weight_scale"]
    expected = quotient.astype(np.float16).astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
    assert tensors[f"{name}.weight"].tobytes() == expected.tobytes()
