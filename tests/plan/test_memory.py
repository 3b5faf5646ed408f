from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.pipeline.recipe_file import read_draft
from nvlm_trt.plan.gpu import GPUS
from nvlm_trt.plan.memory import (
    TOKENS_PER_BLOCK,
    gpu_memory,
    kv_bytes_per_token,
    stage_kv_bytes_per_token,
    stage_layers,
    vision_activation_bytes_per_tile,
)
from nvlm_trt.plan.resolve import load_recipe, sized
from tests.release import RELEASE

H200, H100 = GPUS["H200-141GB"], GPUS["H100-80GB"]


def test_kv_bytes_of_the_release() -> None:
    assert kv_bytes_per_token(RELEASE, "fp8") == 163_840
    assert kv_bytes_per_token(RELEASE, "bf16") == 327_680


def test_a_tile_s_activations_are_what_was_measured() -> None:
    """641 MB for 7 tiles and 5.13 GB for 56."""
    one = vision_activation_bytes_per_tile(RELEASE.vision, "bfloat16")
    assert 7 * one == pytest.approx(641e6, rel=0.01)
    assert 56 * one == pytest.approx(5.13e9, rel=0.01)


def test_one_h200_line_by_line() -> None:
    """The sum a reader can do: 48 requests of one picture have 48 x 1792 rows of 8192 BF16 values."""
    memory = gpu_memory(RELEASE, load_recipe("h200x1-fp8", RELEASE), H200)
    assert memory.weight_bytes == 75_199_761_536
    assert memory.prompt_table_bytes == 48 * 1792 * 8192 * 2
    assert memory.vision_weight_bytes == 12_314_426_112
    assert memory.kv_bytes_per_token == 327_680
    assert memory.used_bytes + memory.kv_bytes <= H200.memory_bytes
    assert memory.kv_bytes == pytest.approx(42.1e9, rel=0.01)


drafts = st.builds(
    lambda tp, kv, batch, images: (tp, kv, batch, images),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from(["bf16", "fp8"]),
    st.integers(1, 2048),
    st.integers(1, 8),
)


@settings(deadline=None, max_examples=40)
@given(drawn=drafts, gpu=st.sampled_from([H100, H200]))
def test_nothing_is_counted_twice_and_nothing_left_out(drawn, gpu) -> None:
    tp, kv_cache, batch_size, images = drawn
    base = load_recipe("h200x1-fp8", RELEASE)
    decoder = base.decoder.model_copy(update={"tp": tp, "kv_cache": kv_cache, "max_batch_size": batch_size})
    prompt = base.prompt.model_copy(update={"max_images": images})
    memory = gpu_memory(RELEASE, base.model_copy(update={"decoder": decoder, "prompt": prompt}), gpu)
    parts = [getattr(memory, field.name) for field in dataclasses.fields(memory) if field.name.endswith("_bytes")]
    assert sum(parts) == memory.capacity_bytes + memory.used_bytes
    assert memory.kv_tokens % TOKENS_PER_BLOCK == 0
    assert memory.kv_tokens * memory.kv_bytes_per_token <= max(0, memory.kv_bytes)
    tokens = 100
    assert memory.requests(tokens) * tokens <= memory.kv_tokens


@pytest.mark.parametrize("pp", [1, 2, 3, 4])
def test_stages_share_the_layers_and_the_cache(pp: int) -> None:
    base = load_recipe("h200x1-fp8", RELEASE)
    recipe = base.model_copy(update={"decoder": base.decoder.model_copy(update={"pp": pp})})
    assert sum(stage_layers(RELEASE, recipe, stage) for stage in range(pp)) == 80
    caches = [stage_kv_bytes_per_token(RELEASE, recipe, stage) for stage in range(pp)]
    assert sum(caches) == kv_bytes_per_token(RELEASE, "bf16")


def test_the_fullest_stage_decides() -> None:
    """The first holds the vision engine and the prompt table."""
    draft = read_draft("h100x4-fp8")
    two = draft.model_copy(update={"decoder": draft.decoder.model_copy(update={"pp": 2})})
    recipe = sized(two, RELEASE, H100, 2)
    assert recipe is not None
    assert gpu_memory(RELEASE, recipe, H100).stage == 0
