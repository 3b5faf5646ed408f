from __future__ import annotations

from pathlib import Path

import pytest

from nvlm_trt.decoder.range_method import RangeMethod
from nvlm_trt.errors import UsageError
from nvlm_trt.pipeline.recipe import CalibrationRecipe, GpuRecipe, Recipe
from nvlm_trt.pipeline.recipe_file import read_draft, recipe_names
from nvlm_trt.plan.resolve import load_recipe
from tests.pipeline.toys import RECIPE, write_recipe
from tests.release import RELEASE


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_can_be_read_and_is_named_as_its_file(name: str) -> None:
    recipe = load_recipe(name, RELEASE)
    assert recipe.name == name
    assert recipe.description.endswith(".")
    assert Recipe.model_validate(recipe.model_dump()) == recipe


def test_a_recipe_of_the_user_s_own(tmp_path: Path) -> None:
    assert read_draft(write_recipe(tmp_path / "mine.toml", 3)).decoder.max_batch_size == 3


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[vision]", "[vision]\ncolour = 1", "vision.colour"),
        ("[vision]", "[vison]", "vision"),
        ('"onnxruntime"', '"onnx"', "vision.engine"),
        ('"onnxruntime"', '"onnxruntime"\nprofile = [7, 1, 28]', "vision"),
        ('"onnxruntime"', '"onnxruntime"\nprofile = [1, 7]', "vision.profile"),
        ('"onnxruntime"', '"onnxruntime"\nquantization = "int8"', "vision.quantization"),
        ('"onnxruntime"', '"onnxruntime"\nexclude = ["*.attn.qkv"]', "vision"),
        ('"onnxruntime"', '"onnxruntime"\ncache_bytes = -1', "vision.cache_bytes"),
        ('"onnxruntime"', '"onnxruntime"\nshare_calls = 1', "vision.share_calls"),
        ('"embedded"', '"tensorrt_llm"', "the recipe"),
        ('"embedded"', '"embedded"\ntp = 2', "the recipe"),
        ('"embedded"', '"embedded"\ntp = 3', "decoder.tp"),
        ("max_seq_len = 64", 'max_seq_len = "64"', "decoder.max_seq_len"),
        ("max_seq_len = 64", "max_seq_len = 0", "decoder.max_seq_len"),
        ("max_seq_len = 64", "", "decoder.max_seq_len"),
        ("[decoder]", '[calibration]\nmethod = "percentile:10"\n\n[decoder]', "calibration.method"),
        ("[decoder]", '[calibration]\nmethod = "percentile:100.1"\n\n[decoder]', "calibration.method"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = RECIPE.format(max_batch_size=1)
    assert old in text
    (tmp_path / "mine.toml").write_text(text.replace(old, new))
    with pytest.raises(UsageError) as wrong:
        read_draft(str(tmp_path / "mine.toml"))
    assert wrong.value.code == "E-RECIPE-KEY"
    assert wrong.value.what.startswith(f"mine.toml: {said}")
    assert "pydantic" not in str(wrong.value)


@pytest.mark.parametrize("percentile", ["49.99", "50", "99.9", "100", "100.01"])
def test_a_percentile_may_be_what_calibration_takes(percentile: str) -> None:
    method = f"percentile:{percentile}"
    try:
        RangeMethod.parse(method)
    except UsageError:
        with pytest.raises(ValueError, match=f"the percentile is {percentile}; 50 to 100"):
            CalibrationRecipe(method=method)
    else:
        assert CalibrationRecipe(method=method).method == method


def test_a_misspelt_key_is_named_beside_the_one_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE.format(max_batch_size=1).replace("max_seq_len", "max_seqlen"))
    with pytest.raises(UsageError) as wrong:
        read_draft(str(tmp_path / "mine.toml"))
    what = "mine.toml: decoder.max_seq_len: the key is missing; decoder.max_seqlen: there is no such key."
    assert wrong.value.what == what


PRODUCTION = """
name = "mine"
description = "For tests."

[gpu]
name = "H100-80GB"
count = 4

[vision]
engine = "tensorrt"

[decoder]
engine = "tensorrt_llm"
max_seq_len = 4096

[container]
image = "image"
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("H100-80GB", "H100", "gpu.name"),
        ("count = 4", "count = 3", "the recipe"),
        ("count = 4", "count = 4\nnodes = 3", "gpu"),
        ("max_seq_len = 4096", "max_seq_len = 4096\ntp = 2", "the recipe"),
        ("max_seq_len = 4096", "max_seq_len = 4096\ntp = 3", "decoder.tp"),
        ("max_seq_len = 4096", 'max_seq_len = 4096\nmax_batch_size = "many"', "decoder.max_batch_size"),
        ("max_seq_len = 4096", "max_seq_len = 4096\nforce_kv_cache = true", "the recipe"),
        ("max_seq_len = 4096", 'max_seq_len = 4096\nquantization = "none"\nexclude = ["*"]', "the recipe"),
        ("max_seq_len = 4096", 'max_seq_len = 4096\nquantization = "none"\nunified_checkpoint = true', "the recipe"),
        ("[container]", '[calibration]\nmethod = "median"\n\n[container]', "calibration.method"),
        ("[container]", "[calibration]\nerror_bound = 0.0\n\n[container]", "calibration.error_bound"),
        ('[gpu]\nname = "H100-80GB"\ncount = 4\n', "", "the recipe"),
        ('"tensorrt_llm"', '"embedded"\nrunner = "torch"\nkv_cache = "fp8"', "the recipe"),
        ("[container]", "[prompt]\nmax_tiles = 0\n\n[container]", "prompt.max_tiles"),
        ('"tensorrt_llm"', '"embedded"\nrunner = "torch"\npp = 2', "the recipe"),
        ('"tensorrt_llm"', '"embedded"\nrunner = "jax"', "decoder.runner"),
        ('"tensorrt_llm"', '"tensorrt_llm"\nrunner = "torch"', "the recipe"),
        ('[container]\nimage = "image"\n', "", "the recipe"),
    ],
)
def test_what_cannot_be_built_together_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    """Nothing is passed over: a key that would have no effect is an error too."""
    file = tmp_path / "mine.toml"
    file.write_text(PRODUCTION)
    assert read_draft(str(file)).decoder.tp == "auto"
    assert old in PRODUCTION
    file.write_text(PRODUCTION.replace(old, new))
    with pytest.raises(UsageError) as wrong:
        read_draft(str(file))
    assert wrong.value.code == "E-RECIPE-KEY"
    assert wrong.value.what.startswith(f"mine.toml: {said}:")
    assert "Value error" not in wrong.value.what


def test_a_calibration_set_lies_where_the_recipe_says(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(PRODUCTION + '\n[calibration]\nset = "sets/my set.jsonl"\n')
    assert read_draft(str(file)).calibration.set == str(tmp_path / "sets" / "my set.jsonl")


@pytest.mark.parametrize(("count", "nodes", "each"), [(1, 1, 8), (8, 1, 8), (16, 1, 16), (8, 2, 4), (2, 2, 1)])
def test_a_rank_finds_its_gpu_by_those_of_a_machine(count: int, nodes: int, each: int) -> None:
    """On one machine as TensorRT-LLM does by itself, so that the checkpoint is the same for all of them."""
    gpu = GpuRecipe(name="H100-80GB", count=count, nodes=nodes)
    assert load_recipe("h100x2-fp8", RELEASE).model_copy(update={"gpu": gpu}).gpus_per_node == each


@pytest.mark.parametrize("name", ["", "nowhere", "../embedded", "nowhere.toml", "embedded.tom"])
def test_a_recipe_that_does_not_exist(name: str) -> None:
    with pytest.raises(UsageError) as wrong:
        load_recipe(name, RELEASE)
    assert wrong.value.code == "E-RECIPE-NAME"
    assert "embedded" in wrong.value.fix


@pytest.mark.parametrize("data", [b"= 1", b"\xff", b"[vision", b"a = " + b"[" * 100_000, b"a = " + b"9" * 5000])
def test_a_file_that_is_not_toml(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "mine.toml").write_bytes(data)
    with pytest.raises(UsageError) as wrong:
        read_draft(str(tmp_path / "mine.toml"))
    assert wrong.value.code == "E-RECIPE-SYNTAX"
