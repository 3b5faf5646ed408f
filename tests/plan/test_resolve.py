from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.decoder.build_command import prompt_table_rows
from nvlm_trt.errors import UsageError
from nvlm_trt.pipeline.recipe import Recipe, RecipeDraft
from nvlm_trt.pipeline.recipe_file import read_draft, recipe_names
from nvlm_trt.plan.gpu import GPUS
from nvlm_trt.plan.memory import gpu_memory
from nvlm_trt.plan.resolve import load_recipe, resolve, sized, workload_of
from tests.release import RELEASE

PRODUCTION = [name for name in recipe_names() if name != "embedded"]


def changed(name: str, section: str, **values: object) -> RecipeDraft:
    data = read_draft(name).model_dump()
    data[section] |= values
    return RecipeDraft.model_validate(data)


@pytest.mark.parametrize(
    ("name", "tp", "batch_size", "rows"),
    [
        ("h200x1-fp8", 1, 40, 71_680),
        ("h100x2-fp8", 2, 40, 71_680),
        ("h100x4-fp8", 4, 136, 243_712),
        ("h100x8-fp8", 8, 256, 458_752),
        ("h200x8-fp8", 8, 256, 458_752),
    ],
)
def test_sizes_of_the_shipped_recipes(name: str, tp: int, batch_size: int, rows: int) -> None:
    recipe = load_recipe(name, RELEASE)
    assert (recipe.decoder.tp, recipe.decoder.max_batch_size) == (tp, batch_size)
    assert recipe.decoder.max_num_tokens == recipe.decoder.max_seq_len == 8192
    assert prompt_table_rows(recipe, RELEASE) == rows


def test_fewer_tiles_leave_room_for_more_requests() -> None:
    """A picture of two tiles and a thumbnail has 768 rows, where one of six has 1792."""
    whole, bounded = (resolve(changed("h200x1-fp8", "prompt", max_tiles=limit), RELEASE) for limit in (None, 2))
    assert bounded.decoder.max_batch_size > whole.decoder.max_batch_size
    assert prompt_table_rows(bounded, RELEASE) == bounded.decoder.max_batch_size * 768


@pytest.mark.parametrize("name", PRODUCTION)
def test_the_batch_is_the_largest_that_fits(name: str) -> None:
    recipe = load_recipe(name, RELEASE)
    assert recipe.gpu is not None
    tokens = workload_of(recipe).total_tokens(RELEASE)
    memory = gpu_memory(RELEASE, recipe, recipe.gpu.model)
    assert memory.requests(tokens) >= recipe.decoder.max_batch_size
    assert recipe.decoder.max_kv_tokens == memory.kv_tokens
    if recipe.decoder.max_batch_size < 256:
        larger = recipe.decoder.model_copy(update={"max_batch_size": recipe.decoder.max_batch_size + 8})
        fuller = gpu_memory(RELEASE, recipe.model_copy(update={"decoder": larger}), recipe.gpu.model)
        assert fuller.requests(tokens) < larger.max_batch_size


@settings(deadline=None, max_examples=30)
@given(
    tp=st.sampled_from([2, 4, 8]),
    less=st.fixed_dictionaries({"pictures": st.integers(0, 3), "text_tokens": st.integers(1, 900)}),
    answer_tokens=st.integers(1, 900),
)
def test_longer_requests_never_make_a_larger_batch(tp: int, less: dict[str, int], answer_tokens: int) -> None:
    gpu = GPUS["H100-80GB"]
    short = changed("h100x2-fp8", "workload", **less, answer_tokens=answer_tokens)
    long = changed("h100x2-fp8", "workload", **less, answer_tokens=answer_tokens + 500)
    one, other = sized(short, RELEASE, gpu, tp), sized(long, RELEASE, gpu, tp)
    assert one is not None
    assert other is None or other.decoder.max_batch_size <= one.decoder.max_batch_size


def test_what_is_typed_in_is_kept() -> None:
    recipe = resolve(changed("h200x1-fp8", "decoder", max_batch_size=5, max_num_tokens=9000), RELEASE)
    assert (recipe.decoder.max_batch_size, recipe.decoder.max_num_tokens) == (5, 9000)


def test_an_fp8_cache_holds_about_twice_the_requests() -> None:
    bf16 = resolve(changed("h200x1-fp8", "decoder", kv_cache="bf16"), RELEASE)
    fp8 = resolve(changed("h200x1-fp8", "decoder", kv_cache="fp8"), RELEASE)
    assert 1.8 < fp8.decoder.max_kv_tokens / bf16.decoder.max_kv_tokens < 2.05


def test_one_h100_is_too_small() -> None:
    with pytest.raises(UsageError) as refused:
        resolve(changed("h100x2-fp8", "gpu", count=1), RELEASE)
    assert refused.value.code == "E-RECIPE-MEMORY"
    assert "H100-80GB has 80 GB" in refused.value.what


def test_a_batch_whose_prompt_table_leaves_no_room_is_refused() -> None:
    with pytest.raises(UsageError, match="E-RECIPE-MEMORY: This batch"):
        resolve(changed("h100x2-fp8", "decoder", max_batch_size=2048), RELEASE)


def test_a_decoder_that_cannot_be_cut_so_is_refused() -> None:
    config = dataclasses.replace(RELEASE, decoder=dataclasses.replace(RELEASE.decoder, num_kv_heads=2))
    with pytest.raises(UsageError, match="E-RECIPE-TP"):
        load_recipe("h100x4-fp8", config)


@pytest.mark.parametrize("name", recipe_names())
def test_a_resolved_recipe_is_written_and_read_exactly(name: str) -> None:
    recipe = load_recipe(name, RELEASE)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
