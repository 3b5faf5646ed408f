from __future__ import annotations

import pytest

from nvlm_trt.errors import UsageError
from nvlm_trt.precision.spec import DecoderPrecision, parse_precision, parse_precisions
from tests.release import RELEASE

PATTERN = "exclude=*.layers.0.*"


@pytest.mark.parametrize(
    "text", ["bf16", "bf16+kv", "fp8", "fp8+kv", f"fp8,{PATTERN}", f"fp8+kv,{PATTERN},exclude=*.proj"]
)
def test_what_is_written_is_read_back(text: str) -> None:
    assert parse_precision(text).name == text


def test_a_precision_is_a_recipes_words() -> None:
    assert parse_precision(f"fp8+kv, {PATTERN}") == DecoderPrecision("fp8", "fp8", ("*.layers.0.*",))
    assert parse_precision("bf16") == DecoderPrecision("none", "bf16")


def test_names_of_files_differ_where_precisions_do() -> None:
    texts = ["bf16", "bf16+kv", "fp8", "fp8+kv", f"fp8,{PATTERN}", f"fp8+kv,{PATTERN}", "fp8,exclude=*.layers.1.*"]
    slugs = [parse_precision(text).slug for text in texts]
    assert len(set(slugs)) == len(slugs)
    assert all(set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789+-") for slug in slugs)


@pytest.mark.parametrize("text", ["", "int8", "FP8", "fp8,", "fp8,*.mlp", "fp8,exclude=", f"bf16,{PATTERN}", PATTERN])
def test_what_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="E-EVAL-PRECISION"):
        parse_precision(text)


@pytest.mark.parametrize(
    ("texts", "code"),
    [
        (["bf16"], "E-EVAL-PRECISION"),
        (["bf16", "fp8", "fp8"], "E-EVAL-PRECISION"),
        (["bf16", "fp8,exclude=*.layers.80.*"], "E-RECIPE-EXCLUDE"),
        (["bf16", "fp8,exclude=*.layers.0.mlp.fc"], "E-RECIPE-EXCLUDE"),
    ],
)
def test_precisions_are_checked_together_and_against_the_model(texts: list[str], code: str) -> None:
    with pytest.raises(UsageError, match=code):
        parse_precisions(texts, RELEASE)
