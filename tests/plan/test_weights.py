"""Bytes of weights: against the release's table and against what the exporters really write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nvlm_trt.checkpoint.synthetic import SIZES
from nvlm_trt.errors import UsageError
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.plan.resolve import load_recipe
from nvlm_trt.plan.weights import RankWeights, decoder_weights, vision_parameters, vision_weight_bytes
from tests.release import RELEASE

BASE = load_recipe("h200x1-fp8", RELEASE).decoder


def weights(**changes: object) -> tuple[RankWeights, ...]:
    return decoder_weights(RELEASE, BASE.model_copy(update=changes))


@pytest.mark.parametrize(
    ("tp", "total_bytes"), [(1, 75_199_761_536), (2, 38_846_909_568), (4, 20_670_483_584), (8, 11_582_270_592)]
)
def test_the_release_s_decoder_in_fp8(tp: int, total_bytes: int) -> None:
    """75.2, 38.8, 20.7 and 11.6 GB on each GPU."""
    [rank] = weights(tp=tp)
    assert rank.total_bytes == total_bytes
    assert rank.total_bytes - rank.read_bytes == 152064 * 8192 * 2  # the embedding, whole on every rank


def test_the_release_s_decoder_without_quantisation() -> None:
    [rank] = weights(quantization="none")
    assert rank.total_bytes == 2 * 72_706_203_648


def test_a_cache_in_fp8_has_a_scale_for_each_layer() -> None:
    assert weights(kv_cache="fp8")[0].total_bytes == 75_199_761_536 + 4 * 80


def test_linears_that_stay_unquantised_take_twice_the_bytes() -> None:
    """fc and gate of layer 79: two matrices in BF16, and four scales less."""
    [plain], [all_fp8] = weights(exclude=("*.79.mlp.fc", "*.79.mlp.gate")), weights()
    elements = 2 * 29568 * 8192
    assert plain.total_bytes == all_fp8.total_bytes + elements - 4 * 4
    assert (plain.plain_elements, plain.fp8_elements) == (elements, all_fp8.fp8_elements - elements)


def test_a_pattern_that_names_nothing() -> None:
    with pytest.raises(UsageError, match="E-RECIPE-EXCLUDE"):
        weights(exclude=("*.80.mlp.*",))


@pytest.mark.parametrize("pp", [2, 3, 4])
def test_stages_together_hold_the_decoder_once(pp: int) -> None:
    stages = weights(tp=2, pp=pp)
    assert sum(stage.total_bytes for stage in stages) == weights(tp=2)[0].total_bytes
    assert stages[0].total_bytes > stages[1].total_bytes or pp == 2


def test_the_release_s_vision_half_without_its_dummy_heads() -> None:
    """6,052,672,640 and 620,717,056 parameters, less seven of 32 heads in 45 layers."""
    dummies = 45 * (3 * 896 * 3200 + 2 * 896 + 3200 * 896)
    assert vision_parameters(RELEASE.vision) == 6_052_672_640 + 620_717_056 - dummies
    vision = load_recipe("h200x1-fp8", RELEASE).vision
    assert vision_weight_bytes(RELEASE, vision) == 12_314_426_112
    # Four linears of 45 layers, 3200 x 3200 four times and 3200 x 12800 twice, in half the bytes.
    in_fp8 = vision.model_copy(update={"quantization": "fp8"})
    assert vision_weight_bytes(RELEASE, in_fp8) == 12_314_426_112 - 45 * (4 * 3200**2 + 2 * 3200 * 12_800)
    with pytest.raises(UsageError, match="E-RECIPE-EXCLUDE"):
        vision_weight_bytes(RELEASE, in_fp8.model_copy(update={"exclude": ("*.nothing",)}))


def test_a_split_the_decoder_does_not_allow() -> None:
    with pytest.raises(UsageError, match="E-RECIPE-TP"):
        weights(tp=3)


def test_the_full_synthetic_config_is_the_release_s(tmp_path: Path) -> None:
    from nvlm_trt.checkpoint.synthetic.config_json import config_json

    text = json.dumps(config_json(SIZES["full"]))
    assert NvlmConfig.from_json(json.loads(text)) == RELEASE
