"""Names of linears, and the patterns that choose among them."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvlm_trt.decoder.linear_groups import GroupKind, LinearGroup, all_groups, exclude_modules, select_groups
from nvlm_trt.decoder.trtllm_format import Kind, Mapping, tensor_rules
from nvlm_trt.errors import UsageError
from nvlm_trt.model.config import DecoderConfig

TINY = DecoderConfig(64, 128, 12, 4, 2, 16, 1e-6, 1e6, 1024, 256)

subsets = st.sets(st.sampled_from(all_groups(12)))


def test_the_groups_modules_are_the_checkpoints_quantised_tensors() -> None:
    quantised = {rule.name for rule in tensor_rules(TINY, Mapping()) if rule.kind is Kind.WEIGHT}
    assert {f"{module}.weight" for group in all_groups(12) for module in group.modules} == quantised


@given(groups=subsets)
def test_the_names_of_groups_select_exactly_these_groups(groups: set[LinearGroup]) -> None:
    assert select_groups(exclude_modules(groups), 12) == groups


@given(groups=subsets)
def test_as_globs_the_names_match_nothing_else(groups: set[LinearGroup]) -> None:
    patterns = exclude_modules(groups)
    others = [module for group in set(all_groups(12)) - groups for module in group.modules]
    assert not [name for name in others for pattern in patterns if fnmatch.fnmatchcase(name, pattern)]


def test_wildcards_select_over_layers() -> None:
    assert select_groups(["*.mlp.proj"], 3) == {LinearGroup(layer, GroupKind.PROJ) for layer in range(3)}
    assert select_groups(["transformer.layers.1.*"], 12) == {LinearGroup(1, kind) for kind in GroupKind}
    assert select_groups(["*.mlp.fc", "*.mlp.gate"], 1) == {LinearGroup(0, GroupKind.FC)}


def test_nothing_and_the_head_select_no_group() -> None:
    assert select_groups([], 2) == select_groups(["lm_head"], 2) == select_groups(["*lm_head"], 2) == frozenset()
    assert exclude_modules([]) == ["lm_head"]


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "transformer.layers.2.mlp.proj",  # of two layers
        "transformer.layers.0.attention",  # a module, but not a linear
        "transformer.layers.0.mlp.proj.weight",
        "*.MLP.proj",
        "model.layers.0.mlp.down_proj",
    ],
)
def test_a_pattern_that_matches_nothing_is_refused_even_among_others(pattern: str) -> None:
    with pytest.raises(UsageError, match="matches none") as caught:
        select_groups(["*.attention.qkv", pattern], 2)
    assert caught.value.code == "E-RECIPE-EXCLUDE"


@pytest.mark.parametrize("pattern", ["*.mlp.gate", "transformer.layers.1.mlp.fc"])
def test_half_of_a_fusion_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match="fuses") as caught:
        select_groups([pattern], 2)
    assert caught.value.code == "E-RECIPE-EXCLUDE"
