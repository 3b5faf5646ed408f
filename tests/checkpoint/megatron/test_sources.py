from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from nvlm_trt.checkpoint.layout import expected_tensors
from nvlm_trt.checkpoint.megatron.sources import sources
from tests.release import RELEASE

TABLE = json.loads((Path(__file__).parents[2] / "golden" / "nvlm-d-tensors.json").read_text())["tensors"]


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry["hf"])
def test_names_and_shapes_are_those_of_the_published_checkpoint(entry: dict[str, Any]):
    """Eight ranks, one stage: what NVLM-D-72B was published as."""
    found = sources(RELEASE, [80])
    for layer in {0, 7, entry["count"] - 1}:
        if layer >= entry["count"]:
            continue
        source = found[entry["hf"].replace("{i}", str(layer))]
        assert source.name == entry["mcore"].replace("{i}", str(layer))
        shape = tuple(entry["mcore_rank_shape_tp8"])
        assert source.rule.fault(shape, shape, 8) is None
        wider = (*shape[:-1], shape[-1] + 1)
        assert source.rule.fault(wider, wider, 8) is not None
        assert (source.rule.split is None) == (entry["tp"] == "replicated")


def test_every_tensor_of_the_release_has_one_source():
    assert set(sources(RELEASE, [80])) == set(expected_tensors(RELEASE))
    assert sum(entry["count"] for entry in TABLE) == len(sources(RELEASE, [80])) == 1556


def test_layers_are_numbered_anew_in_every_stage():
    config = dataclasses.replace(RELEASE, decoder=dataclasses.replace(RELEASE.decoder, num_layers=6))
    found = sources(config, [1, 3, 2])
    norms = [found[f"language_model.model.layers.{layer}.input_layernorm.weight"] for layer in range(6)]
    assert [source.stage for source in norms] == [0, 1, 1, 1, 2, 2]
    assert [source.name.split(".")[3] for source in norms] == ["0", "0", "1", "2", "0", "1"]
    assert {source.stage for name, source in found.items() if not name.startswith("language_model.model.layers")} == {
        0,
        2,
    }
    assert found["language_model.model.norm.weight"].stage == found["language_model.lm_head.weight"].stage == 2
    assert found["language_model.model.embed_tokens.weight"].stage == 0


def test_uneven_stages_are_possible_and_empty_ones_too():
    config = dataclasses.replace(RELEASE, decoder=dataclasses.replace(RELEASE.decoder, num_layers=3))
    assert set(sources(config, [0, 3, 0])) == set(expected_tensors(config))
