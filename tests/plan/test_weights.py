"""Bytes of weights: against the release's table and against what the exporters really write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nvlm_trt.checkpoint.synthetic import SIZES
from nvlm_trt.errors import UsageError
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.plan.weights import decoder_weights, vision_parameters, vision_weight_bytes
from tests.decoder.test_trtllm_format import RELEASE


@pytest.mark.parametrize(
    ("tp", "total_bytes"), [(1, 75_199_761_536), (2, 38_846_909_568), (4, 20_670_483_584), (8, 11_582_270_592)]
)
def test_the_release_s_decoder_in_fp8(tp: int, total_bytes: int) -> None:
    """75.2, 38.8, 20.7 and 11.6 GB on each GPU."""
    [rank] = decoder_weights(RELEASE, tp, 1, "fp8")
    assert rank.total_bytes == total_bytes
    assert rank.total_bytes - rank.read_bytes == 152064 * 8192 * 2  # the embedding, whole on every rank


def test_the_release_s_decoder_without_quantisation() -> None:
    [rank] = decoder_weights(RELEASE, 1, 1, "none")
    assert rank.total_bytes == 2 * 72_706_203_648


@pytest.mark.parametrize("pp", [2, 3, 4])
def test_stages_together_hold_the_decoder_once(pp: int) -> None:
    stages = decoder_weights(RELEASE, 2, pp, "fp8")
    assert sum(stage.total_bytes for stage in stages) == decoder_weights(RELEASE, 2, 1, "fp8")[0].total_bytes
    assert stages[0].total_bytes > stages[1].total_bytes or pp == 2


def test_the_release_s_vision_half_without_its_dummy_heads() -> None:
    """6,052,672,640 and 620,717,056 parameters, less seven of 32 heads in 45 layers."""
    dummies = 45 * (3 * 896 * 3200 + 2 * 896 + 3200 * 896)
    assert vision_parameters(RELEASE.vision) == 6_052_672_640 + 620_717_056 - dummies
    assert vision_weight_bytes(RELEASE, "bfloat16") == 12_314_426_112


def test_a_split_the_decoder_does_not_allow() -> None:
    with pytest.raises(UsageError, match="E-RECIPE-TP"):
        decoder_weights(RELEASE, 3, 1, "fp8")


def test_the_full_synthetic_config_is_the_release_s(tmp_path: Path) -> None:
    from nvlm_trt.checkpoint.synthetic.config_json import config_json

    text = json.dumps(config_json(SIZES["full"]))
    assert NvlmConfig.from_json(json.loads(text)) == RELEASE
