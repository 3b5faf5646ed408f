"""The checkpoint's layout at full size against a table of every tensor TensorRT-LLM 1.2.1 wants; shapes only, no bytes.

The table, ``tests/golden/trtllm-qwen2-fp8-tensors.json``, was written down from TensorRT-LLM's sources by hand.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from nvlm_trt.decoder.linear_groups import GroupKind, LinearGroup
from nvlm_trt.decoder.trtllm_format import (
    Kind,
    Mapping,
    Precision,
    Split,
    checkpoint_json,
    engine_file_name,
    excluded_modules,
    rank_file_name,
    tensor_rules,
)
from nvlm_trt.errors import UsageError
from tests.release import RELEASE

TABLE: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden/trtllm-qwen2-fp8-tensors.json").read_text(encoding="utf-8")
)
ITEM_BYTES = {"F8_E4M3": 1, "F32": 4, "MODEL": 2}
DTYPES = {Kind.PLAIN: "MODEL", Kind.WEIGHT: "F8_E4M3", Kind.WEIGHT_SCALE: "F32", Kind.INPUT_SCALE: "F32"}
SPLITS = {
    "replicated": Split.WHOLE,
    "embedding": Split.WHOLE,
    "column_rows": Split.ROWS,
    "qkv_rows": Split.ROWS,
    "vocab_rows_padded": Split.ROWS,
    "row_cols": Split.COLUMNS,
}

DECODER = RELEASE.decoder


def table_tensors() -> dict[str, dict[str, Any]]:
    """Name to entry, layers spelt out; without the scale of an FP8 KV cache, which is off."""
    tensors = {entry["name"]: entry for entry in TABLE["global_tensors"]}
    for layer in range(DECODER.num_layers):
        for entry in TABLE["per_layer_tensors"]:
            if "kv_cache_scaling_factor" not in entry["name"]:
                sources = [source.format(i=layer) for source in entry["hf"]]
                tensors[entry["name"].format(i=layer)] = {**entry, "hf": sources}
    return tensors


def rank_shape(entry: dict[str, Any], tp: int) -> tuple[int, ...]:
    by_suffix = {key.split(" ")[0]: shape for key, shape in TABLE["rank_shapes"][str(tp)].items() if "(true" not in key}
    return tuple(next((shape for key, shape in by_suffix.items() if entry["name"].endswith(key)), entry["shape"]))


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_every_tensor_of_a_rank_is_as_in_the_table(tp: int) -> None:
    ours = {rule.name: (DTYPES[rule.kind], rule.shape) for rule in tensor_rules(DECODER, Mapping(tp))}
    theirs = {name: (entry["dtype"], rank_shape(entry, tp)) for name, entry in table_tensors().items()}
    assert ours == theirs
    assert len(ours) == TABLE["counts"]["total_tensors_without_fp8_kv"]


def test_every_tensor_is_made_of_the_tables_sources_and_split_by_its_rule() -> None:
    table = table_tensors()
    for rule in tensor_rules(DECODER, Mapping(1)):
        entry = table[rule.name]
        assert list(rule.sources) == entry["hf"]
        assert rule.split is SPLITS[entry["tp_shard"]]


def test_names_are_unique_at_every_mapping() -> None:
    for mapping in (Mapping(1), Mapping(8), Mapping(2, 4)):
        for stage in range(mapping.pp):
            names = [rule.name for rule in tensor_rules(DECODER, mapping, stage)]
            assert len(names) == len(set(names))


def test_one_rank_holds_as_many_bytes_as_the_table_says() -> None:
    total = sum(math.prod(rule.shape) * ITEM_BYTES[DTYPES[rule.kind]] for rule in tensor_rules(DECODER, Mapping(1)))
    kv_scales = 4 * DECODER.num_layers
    assert total == TABLE["bytes"]["total_tp1"] - kv_scales == 75_199_761_856 - 320


def test_fused_linears_share_a_weight_scale_and_an_input_scale() -> None:
    rules = {rule.name: rule for rule in tensor_rules(DECODER, Mapping(1))}
    layer = "transformer.layers.79."
    fc, gate = rules[f"{layer}mlp.fc.weights_scaling_factor"], rules[f"{layer}mlp.gate.weights_scaling_factor"]
    assert fc.scale_sources == gate.scale_sources
    assert set(fc.scale_sources) == {
        f"language_model.model.layers.79.mlp.{name}_proj.weight" for name in ("gate", "up")
    }
    assert len(rules[f"{layer}attention.qkv.weights_scaling_factor"].scale_sources) == 3
    assert rules[f"{layer}mlp.gate.activation_scaling_factor"].activation == (79, ("fc",))
    assert rules[f"{layer}mlp.fc.activation_scaling_factor"].activation == (79, ("fc",))


@pytest.mark.parametrize("pp", [1, 2, 3, 4, 80])
def test_pipeline_stages_together_hold_the_whole_decoder_once(pp: int) -> None:
    stages = [tensor_rules(DECODER, Mapping(1, pp), stage) for stage in range(pp)]
    sources = [source for rules in stages for rule in rules for source in rule.sources]
    whole = [source for rule in tensor_rules(DECODER, Mapping(1)) for source in rule.sources]
    assert sources == whole
    sizes = [sum(rule.name.endswith("input_layernorm.weight") for rule in rules) for rules in stages]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1
    for rules in stages:
        assert any(rule.name == "transformer.layers.0.attention.qkv.weight" for rule in rules)


def test_config_is_the_tables_but_for_the_kv_cache_and_the_producer() -> None:
    ours, theirs = checkpoint_json(RELEASE, Mapping(1)), TABLE["config_json_minimal"]
    assert ours.pop("producer")["name"] == "nvlm-trt"
    assert ours.pop("quantization") == {**theirs["quantization"], "kv_cache_quant_algo": None}
    # Not in the table, but the runtime reads it: a rank's GPU is its number modulo this one.
    assert ours["mapping"].pop("gpus_per_node") == 8
    assert ours == {key: value for key, value in theirs.items() if key not in ("producer", "quantization")}


def test_an_fp8_cache_adds_the_tables_scale_to_every_layer() -> None:
    rules = tensor_rules(DECODER, Mapping(1), precision=Precision(kv_cache=True))
    assert len(rules) == TABLE["counts"]["total_tensors"]
    added = {rule.name for rule in rules} - {rule.name for rule in tensor_rules(DECODER, Mapping(1))}
    assert added == {f"transformer.layers.{layer}.attention.kv_cache_scaling_factor" for layer in range(80)}


def test_without_quantisation_the_bytes_are_the_tables() -> None:
    rules = tensor_rules(DECODER, Mapping(1), precision=Precision(linears=False))
    assert {rule.kind for rule in rules} == {Kind.PLAIN}
    assert 2 * sum(math.prod(rule.shape) for rule in rules) == TABLE["bytes"]["bf16_same_model"]


def groups(*layers: int) -> frozenset[LinearGroup]:
    return frozenset(LinearGroup(layer, GroupKind.FC) for layer in layers)


def test_a_stage_names_its_exclusions_by_its_own_layer_numbers() -> None:
    excluded = Precision(excluded=groups(3, 43))
    assert excluded_modules(DECODER, Mapping(1, 2), excluded) == [
        "lm_head",
        "transformer.layers.3.mlp.fc",
        "transformer.layers.3.mlp.gate",
    ]
    plain = {rule.name for rule in tensor_rules(DECODER, Mapping(1, 2), 1, excluded) if rule.kind is Kind.PLAIN}
    assert "transformer.layers.3.mlp.fc.weight" in plain
    assert "transformer.layers.4.mlp.fc.weight" not in plain


def test_an_exclusion_that_would_strike_another_stages_layer_is_refused() -> None:
    with pytest.raises(UsageError, match=r"transformer\.layers\.43\.mlp\.fc as well") as caught:
        excluded_modules(DECODER, Mapping(1, 2), Precision(excluded=groups(3)))
    assert caught.value.code == "E-RECIPE-EXCLUDE"


def test_a_layer_that_only_the_longer_stages_have_may_be_excluded_alone() -> None:
    decoder = dataclasses.replace(DECODER, num_layers=5)
    assert excluded_modules(decoder, Mapping(1, 2), Precision(excluded=groups(2))) == [
        "lm_head",
        "transformer.layers.2.mlp.fc",
        "transformer.layers.2.mlp.gate",
    ]


def test_config_follows_the_mapping_and_the_dtype() -> None:
    config = checkpoint_json(dataclasses.replace(RELEASE, dtype="float16"), Mapping(4, 2, gpus_per_node=4))
    assert config["mapping"] == {"world_size": 8, "gpus_per_node": 4, "tp_size": 4, "pp_size": 2}
    assert config["dtype"] == "float16"


@pytest.mark.parametrize("tp", [0, 3, 16])
def test_a_tensor_split_the_decoder_does_not_allow_is_refused(tp: int) -> None:
    with pytest.raises(UsageError) as caught:
        Mapping(tp).check(DECODER)
    assert caught.value.code == "E-RECIPE-TP"


def test_a_split_that_leaves_gemms_unaligned_is_refused() -> None:
    # 16 key-value heads could be split by 16, but 29568 / 16 = 1848 is no multiple of 16.
    with pytest.raises(UsageError, match="29568"):
        Mapping(16).check(dataclasses.replace(DECODER, num_kv_heads=16))


@pytest.mark.parametrize("pp", [0, 81])
def test_more_stages_than_layers_are_refused(pp: int) -> None:
    with pytest.raises(UsageError) as caught:
        Mapping(1, pp).check(DECODER)
    assert caught.value.code == "E-RECIPE-PP"


def test_files_are_numbered_without_padding() -> None:
    assert rank_file_name(10) == "rank10.safetensors"
    assert engine_file_name(0) == "rank0.engine"
