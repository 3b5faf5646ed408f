"""The command line against the table of ``trtllm-build``'s flags, and the sizes on it."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.decoder.build_command import prompt_table_rows, trtllm_build_command
from nvlm_trt.errors import UsageError
from nvlm_trt.pipeline.recipe import Recipe
from nvlm_trt.plan.resolve import load_recipe
from tests.decoder.fake_trtllm_build import FLAGS, make_parser
from tests.release import RELEASE


def recipe_with(max_images: int = 1, **decoder: int) -> Recipe:
    base = load_recipe("h200x1-fp8", RELEASE)
    data = base.model_dump()
    data["decoder"].update(decoder)
    data["prompt"]["max_images"] = max_images
    return Recipe.model_validate(data)


def command(recipe: Recipe) -> list[str]:
    return trtllm_build_command(recipe, RELEASE, "/deployment/decoder/checkpoint", "/deployment/decoder/engine")


def test_the_command_of_the_shipped_recipe() -> None:
    """An example to read: 40 requests of one picture, 7 tiles of 256 rows each."""
    assert command(load_recipe("h200x1-fp8", RELEASE)) == [
        "trtllm-build",
        *("--checkpoint_dir", "/deployment/decoder/checkpoint"),
        *("--output_dir", "/deployment/decoder/engine"),
        *("--max_batch_size", "40"),
        *("--max_input_len", "8192"),
        *("--max_seq_len", "8192"),
        *("--max_num_tokens", "8192"),
        *("--max_multimodal_len", "71680"),
        *("--workers", "1"),
        *("--gpt_attention_plugin", "auto"),
        *("--gemm_plugin", "disable"),
        *("--remove_input_padding", "enable"),
        *("--kv_cache_type", "paged"),
        *("--context_fmha", "enable"),
        *("--use_paged_context_fmha", "enable"),
        *("--use_fused_mlp", "enable"),
        *("--max_beam_width", "1"),
        *("--log_level", "info"),
    ]


def test_the_gemm_plugin_is_for_linears_that_are_not_quantised() -> None:
    plain = recipe_with()
    plain = plain.model_copy(update={"decoder": plain.decoder.model_copy(update={"quantization": "none"})})
    words = command(plain)
    assert words[words.index("--gemm_plugin") + 1] == "auto"


recipes = st.builds(
    recipe_with,
    max_images=st.integers(1, 16),
    tp=st.sampled_from([1, 2, 4, 8]),
    max_batch_size=st.integers(1, 2048),
    max_seq_len=st.integers(16, 32768),
    max_num_tokens=st.integers(16, 10**6),
)


@given(recipe=recipes)
@settings(max_examples=50, deadline=None)
def test_every_flag_and_value_is_one_the_tool_takes(recipe: Recipe) -> None:
    words = command(recipe)[1:]
    parsed = make_parser().parse_args(words)
    assert parsed.max_prompt_embedding_table_size == prompt_table_rows(recipe, RELEASE)
    assert parsed.workers == recipe.decoder.tp
    flags = words[::2]
    assert len(flags) == len(set(flags))
    assert not any(FLAGS.get(flag, {}).get("deprecated") for flag in flags)


@given(recipe=recipes)
@settings(max_examples=50, deadline=None)
def test_each_request_can_bring_its_rows_and_never_more_than_its_positions(recipe: Recipe) -> None:
    rows = prompt_table_rows(recipe, RELEASE)
    per_request, rest = divmod(rows, recipe.decoder.max_batch_size)
    assert rest == 0
    assert per_request == min(recipe.prompt.max_images * 7 * 256, recipe.decoder.max_seq_len)


@pytest.mark.parametrize(
    ("max_tiles", "use_thumbnail", "tiles"), [(6, True, 7), (6, False, 6), (1, True, 1), (12, True, 13)]
)
def test_the_thumbnail_counts_unless_a_picture_is_one_tile(max_tiles: int, use_thumbnail: bool, tiles: int) -> None:
    tiling = dataclasses.replace(RELEASE.tiling, max_tiles=max_tiles, use_thumbnail=use_thumbnail)
    config = dataclasses.replace(RELEASE, tiling=tiling)
    assert prompt_table_rows(recipe_with(max_batch_size=1), config) == tiles * 256


def test_the_tool_refuses_what_is_not_its_own() -> None:
    """The check above can fail: the stand-in refuses flags of older lines, bare switches and unknown values."""
    for words in (["--tp_size", "2"], ["--use_fused_mlp"], ["--gemm_plugin", "on"], ["--max_batch", "8"]):
        with pytest.raises(SystemExit):
            make_parser().parse_args(words)


def test_sequences_longer_than_the_decoders_positions_are_refused() -> None:
    assert command(recipe_with(max_seq_len=32768))
    with pytest.raises(UsageError) as caught:
        command(recipe_with(max_seq_len=32769))
    assert caught.value.code == "E-RECIPE-SEQ"
