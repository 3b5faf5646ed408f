from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.pipeline.recipe import GpuRecipe
from nvlm_trt.pipeline.recipe_file import read_draft
from nvlm_trt.plan.gpu import GPUS
from nvlm_trt.plan.memory import (
    TOKENS_PER_BLOCK,
    gpu_memory,
    kv_bytes_per_token,
    stage_kv_bytes_per_token,
    stage_layers,
    vision_activation_bytes_per_tile,
    vision_stage,
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
    """The sum a reader can do: 40 requests of one picture have 40 x 1792 rows of 8192 BF16 values, each row twice."""
    memory = gpu_memory(RELEASE, load_recipe("h200x1-fp8", RELEASE), H200)
    assert memory.weight_bytes == 75_199_761_536
    assert memory.prompt_table_bytes == memory.request_table_bytes == 40 * 1792 * 8192 * 2
    assert memory.vision_weight_bytes == 12_314_426_112
    assert memory.kv_bytes_per_token == 327_680
    assert memory.used_bytes + memory.kv_bytes <= H200.memory_bytes
    assert memory.kv_bytes == pytest.approx(41.0e9, rel=0.01)


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


@pytest.mark.parametrize("tp", [1, 4])
def test_every_stage_holds_the_tables_once_for_each_batch_under_way(tp: int) -> None:
    base = load_recipe("h200x1-fp8", RELEASE)
    rows = base.decoder.max_batch_size * 1792
    for pp in (1, 2, 4):
        decoder = base.decoder.model_copy(update={"tp": tp, "pp": pp})
        memory = gpu_memory(RELEASE, base.model_copy(update={"decoder": decoder}), H200)
        assert memory.prompt_table_bytes == memory.request_table_bytes == pp * rows * 8192 * 2


@pytest.mark.parametrize(
    ("tp", "pp", "nodes", "stage"),
    [
        *((4, 1, 1, 0), (4, 2, 1, 0), (1, 8, 1, 0)),
        # The machine that answers has the last stages: of its ranks' numbers, 4 to 7, the first GPU is 4's.
        *((4, 2, 2, 1), (2, 4, 2, 2), (8, 2, 4, 1), (8, 1, 2, 0)),
    ],
)
def test_the_vision_engine_is_beside_the_rank_that_has_its_gpu(tp: int, pp: int, nodes: int, stage: int) -> None:
    base = load_recipe("h200x1-fp8", RELEASE)
    gpu = GpuRecipe(name="H200-141GB", count=tp * pp, nodes=nodes)
    decoder = base.decoder.model_copy(update={"tp": tp, "pp": pp})
    assert vision_stage(base.model_copy(update={"gpu": gpu, "decoder": decoder})) == stage


def test_the_fullest_stage_decides() -> None:
    """The first holds the vision engine."""
    draft = read_draft("h100x4-fp8")
    two = draft.model_copy(update={"decoder": draft.decoder.model_copy(update={"pp": 2})})
    recipe = sized(two, RELEASE, H100, 2)
    assert recipe is not None
    assert gpu_memory(RELEASE, recipe, H100).stage == 0
