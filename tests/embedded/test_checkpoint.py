from __future__ import annotations

import contextlib
import json
import re
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from nvlm_trt.decoder.trtllm_format import Mapping, checkpoint_json, tensor_rules
from nvlm_trt.embedded.checkpoint import DecoderCheckpoint
from nvlm_trt.embedded.config import CheckpointConfig
from nvlm_trt.errors import ArtefactError
from tests.embedded.decoder_folder import CONFIG
from tests.release import RELEASE


def config_with(path, value):
    """The config with one key changed, or left out where ``value`` is None and the key must be there."""
    data = json.loads(json.dumps(CONFIG))
    *outer, last = path.split(".")
    place = data
    for key in outer:
        place = place[key]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return data


def refusal(data):
    with pytest.raises(ArtefactError) as caught:
        CheckpointConfig.from_json(data)
    return caught.value.code


def test_the_config_is_read():
    config = CheckpointConfig.from_json(CONFIG)
    assert config.dtype == "BF16"
    assert (config.decoder.num_layers, config.decoder.qkv_size, config.decoder.rope_theta) == (3, 128, 1e6)


LINEARS = ("attention.qkv", "attention.dense", "mlp.fc", "mlp.gate", "mlp.proj")


@pytest.mark.parametrize(
    ("patterns", "plain"),
    [
        (["lm_head"], set()),
        (None, set()),
        ([], set()),
        (["lm_head", "transformer.layers.1.attention.qkv"], {"transformer.layers.1.attention.qkv"}),
        (["*.layers.2.mlp.*"], {f"transformer.layers.2.mlp.{name}" for name in ("fc", "gate", "proj")}),
        (["*.layers.2.MLP.*"], set()),
        (["*"], {f"transformer.layers.{layer}.{name}" for layer in range(3) for name in LINEARS}),
    ],
)
def test_excluded_linears_are_plain_and_have_no_scales(patterns, plain):
    config = CheckpointConfig.from_json(config_with("quantization.exclude_modules", patterns))
    tensors = {spec.name: spec.dtype for spec in config.tensors()}
    for layer in range(3):
        for name in LINEARS:
            module = f"transformer.layers.{layer}.{name}"
            assert tensors[f"{module}.weight"] == ("BF16" if module in plain else "F8_E4M3")
            assert (f"{module}.weights_scaling_factor" in tensors) == (module not in plain)
            assert (f"{module}.activation_scaling_factor" in tensors) == (module not in plain)


def test_without_quantisation_all_linears_are_plain():
    config = CheckpointConfig.from_json(config_with("quantization.quant_algo", None))
    assert {spec.dtype for spec in config.tensors()} == {"BF16"}


def test_pipeline_stages_are_refused():
    assert refusal(config_with("mapping.world_size", 2)) == "E-ARTEFACT-RANKS"


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_a_rank_holds_what_the_exporter_gives_it(tp):
    mapping = Mapping(tp)
    read = CheckpointConfig.from_json(checkpoint_json(RELEASE, mapping)).tensors()
    written = {rule.name: rule.shape for rule in tensor_rules(RELEASE.decoder, mapping)}
    assert {spec.name: spec.shape for spec in read} == written


@pytest.mark.parametrize(
    ("tp", "changes", "shape"),
    [
        (2, {"use_parallel_embedding": False, "embedding_sharding_dim": 1}, (512, 64)),
        (2, {"use_parallel_embedding": True}, (256, 64)),
        (4, {"use_parallel_embedding": True, "embedding_sharding_dim": 0, "vocab_size": 510}, (128, 64)),
        (2, {"use_parallel_embedding": True, "embedding_sharding_dim": 1}, (512, 32)),
    ],
)
def test_the_embedding_is_split_as_the_config_says(tp, changes, shape):
    sizes = {"num_key_value_heads": 4, "mapping": {"world_size": tp, "tp_size": tp, "pp_size": 1}}
    config = CheckpointConfig.from_json({**CONFIG, **sizes, **changes})
    assert next(config.tensors()).shape == shape


@pytest.mark.parametrize(
    "changes",
    [
        {"num_key_value_heads": 2},
        {"intermediate_size": 162},
        {"use_parallel_embedding": True, "embedding_sharding_dim": 2},
        {"use_parallel_embedding": True, "embedding_sharding_dim": 1, "hidden_size": 66},
        {"mapping": {"world_size": 4, "tp_size": True}},
        {"mapping": {"world_size": 4}},
    ],
)
def test_what_ranks_cannot_share_is_refused(changes):
    fit = {"num_key_value_heads": 4, "mapping": {"world_size": 4, "tp_size": 4, "pp_size": 1}}
    CheckpointConfig.from_json({**CONFIG, **fit})
    assert refusal({**CONFIG, **fit, **changes}) == "E-ARTEFACT-DECODER"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("architecture", "LlamaForCausalLM"),
        ("hidden_act", "gelu"),
        ("rotary_scaling", {"type": "dynamic", "factor": 3.0}),
        ("quantization.quant_algo", "FP8_BLOCK_SCALES"),
        ("quantization.exclude_modules", "lm_head"),
        ("quantization.exclude_modules", [1]),
        ("quantization.exclude_modules", ["transformer.layers.0.mlp.fc"]),
        ("quantization.kv_cache_quant_algo", "INT8"),
        ("quantization", None),
        ("mapping", KeyError),
        ("dtype", "float32"),
        ("hidden_size", KeyError),
        ("hidden_size", 64.0),
        ("num_hidden_layers", 0),
        ("num_key_value_heads", 3),
        ("head_size", 20),
        ("norm_epsilon", "1e-6"),
        ("rotary_base", True),
        ("rotary_base", float("nan")),
    ],
)
def test_a_config_of_another_form_is_refused(path, value):
    assert refusal(config_with(path, value)) == "E-ARTEFACT-DECODER"


@settings(deadline=None)
@given(
    path=st.sampled_from([key for key in CONFIG if key not in ("logits_dtype", "qwen_type", "seq_length")]),
    value=st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()),
)
def test_any_value_is_taken_or_refused(path, value):
    with contextlib.suppress(ArtefactError):  # and nothing else may be raised
        assert CheckpointConfig.from_json(config_with(path, value)).decoder.num_layers > 0


def test_tensors_are_mapped_as_stored(decoder_folder):
    checkpoint = DecoderCheckpoint(decoder_folder)
    weight = checkpoint.read("transformer.layers.0.attention.qkv.weight")
    assert (weight.dtype.name, weight.shape, weight.flags.writeable) == ("float8_e4m3fn", (128, 64), False)
    assert checkpoint.scale("transformer.layers.0.mlp.proj.activation_scaling_factor") == np.float32(8 / 448)


def change_tensors(folder, change):
    tensors = load_file(folder / "rank0.safetensors")
    change(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "rank0.safetensors")


SCALE = "transformer.layers.1.mlp.fc.weights_scaling_factor"
BREAKAGES = {
    "no config": lambda folder: (folder / "config.json").unlink(),
    "config no JSON": lambda folder: (folder / "config.json").write_text("{"),
    "config a list": lambda folder: (folder / "config.json").write_text("[]"),
    "no weights": lambda folder: (folder / "rank0.safetensors").unlink(),
    "header lies": lambda folder: (folder / "rank0.safetensors").write_bytes(b"\xff" * 64),
    "tensor missing": lambda folder: change_tensors(folder, lambda tensors: tensors.pop(SCALE)),
    "shape": lambda folder: change_tensors(folder, lambda t: t.update({SCALE: t[SCALE].repeat(2)})),
    "dtype": lambda folder: change_tensors(folder, lambda t: t.update({SCALE: t[SCALE].half()})),
    "scale zero": lambda folder: change_tensors(folder, lambda t: t[SCALE].zero_()),
    "scale NaN": lambda folder: change_tensors(folder, lambda t: t[SCALE].fill_(float("nan"))),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_folder_is_refused(decoder_folder, tmp_path, breakage):
    folder = shutil.copytree(decoder_folder, tmp_path / "decoder")
    BREAKAGES[breakage](folder)
    with pytest.raises(ArtefactError) as caught:
        DecoderCheckpoint(folder)
    assert caught.value.code == "E-ARTEFACT-DECODER"
    assert not re.search(r"/|0x", str(caught.value))
