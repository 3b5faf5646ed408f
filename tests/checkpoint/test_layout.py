from __future__ import annotations

import json
from pathlib import Path

from nvlm_trt.checkpoint.layout import expected_tensors
from nvlm_trt.checkpoint.synthetic.writer import split_into_shards
from tests.release import RELEASE

TABLE = json.loads((Path(__file__).parents[1] / "golden" / "nvlm-d-tensors.json").read_text())
FULL = expected_tensors(RELEASE)


def test_the_full_size_is_the_releases_every_tensor():
    tags = {"bf16": "BF16", "fp32": "F32"}
    released = {
        entry["hf"].replace("{i}", str(index)): (tags[entry["hf_dtype"]], tuple(entry["hf_shape"]))
        for entry in TABLE["tensors"]
        for index in range(entry["count"])
    }
    assert {name: (spec.dtype, spec.shape) for name, spec in FULL.items()} == released
    assert all(name == spec.name for name, spec in FULL.items())


def test_the_full_size_has_the_releases_totals():
    assert len(FULL) == TABLE["hf"]["tensors"] == 1556
    assert sum(spec.nbytes for spec in FULL.values()) == TABLE["hf"]["bytes"] == 176_901_927_168
    assert sum(spec.num_elements for spec in FULL.values()) == TABLE["hf"]["parameters"]


def test_46_shards_hold_what_the_releases_hold():
    shards = split_into_shards(list(FULL.values()), TABLE["hf"]["shards"])
    held = [{spec.name.split(".")[0] for spec in shard} for shard in shards]
    assert [spec.name for spec in shards[0]] == [
        *("mlp1.0.weight", "mlp1.0.bias", "mlp1.1.weight", "mlp1.3.weight"),
        "language_model.model.embed_tokens.weight",
    ]
    assert held[1:41] == [{"language_model"}] * 40
    assert shards[41][0].name == "language_model.lm_head.weight"
    assert "vision_model.embeddings.class_embedding" in {spec.name for spec in shards[41]}
    assert held[42:] == [{"vision_model"}] * 4
