from __future__ import annotations

import base64
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.embedded.request import Sampling
from nvlm_trt.errors import RequestError
from nvlm_trt.serving.parameters import SUPPORTED, UNSUPPORTED, RequestFields, refuse_unsupported

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "triton-tensorrt_llm-io.json").read_text())["client_names"]
URI = "data:image/png;base64," + base64.b64encode(b"not looked at here").decode()


def read(**values) -> RequestFields:
    return RequestFields.from_client({"text_input": "Hi", "max_tokens": 8} | values, max_images=2)


def code_of(**values) -> str:
    with pytest.raises(RequestError) as caught:
        read(**values)
    return caught.value.code


def test_defaults_are_neutral():
    assert read() == RequestFields(text_input="Hi", max_tokens=8)
    assert read().sampling == Sampling(temperature=1.0, top_k=1, top_p=1.0, seed=0)


def test_values_may_come_as_triton_hands_them_over():
    fields = read(
        text_input=np.array(["Grüße".encode()], np.object_),
        max_tokens=np.array([8], np.int32),
        temperature=np.array([0.7], np.float32),
        seed=np.array([2**64 - 1], np.uint64),
        stream=np.array([True]),
        stop_words=np.array([b"stop", " é".encode()], np.object_),
        bad_words=[""],
        image_url_input=np.array([URI.encode(), URI.encode()], np.object_),
        end_id=None,
    )
    assert (fields.text_input, fields.max_tokens, fields.stream) == ("Grüße", 8, True)
    assert fields.sampling == Sampling(temperature=0.7, top_k=0, seed=2**64 - 1)
    assert (fields.stop_words, fields.bad_words, fields.end_id) == (("stop", " é"), (), None)
    assert fields.images == (b"not looked at here",) * 2


def test_every_client_name_of_upstream_is_honoured_or_refused_by_name():
    upstream = {entry["name"] for part in ("ensemble_inputs", "multimodal_ensemble_inputs") for entry in GOLDEN[part]}
    assert upstream <= SUPPORTED | UNSUPPORTED.keys()
    assert not SUPPORTED & UNSUPPORTED.keys()


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_a_parameter_that_is_not_offered_is_refused_unless_neutral(name):
    neutral, _ = UNSUPPORTED[name]
    for value in neutral:
        refuse_unsupported(name, value)
        assert read(**{name: np.array([value])}) == read()
    for value in (2, [2], np.array([3, 4]), np.zeros((1, 3, 2, 2), np.float16)):
        with pytest.raises(RequestError) as caught:
            refuse_unsupported(name, value)
        assert caught.value.code == "E-PARAM-UNSUPPORTED"
        assert name in str(caught.value)


def test_an_unknown_parameter_is_refused():
    assert code_of(temprature=0.7) == "E-PARAM-UNSUPPORTED"
    assert code_of(**{"x" * 10_000: []}) == "E-PARAM-UNSUPPORTED"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0), ("max_tokens", -1), ("max_tokens", 2**31), ("max_tokens", 10**400), ("min_tokens", -1),
        ("min_tokens", 9), ("end_id", -2), ("end_id", 2**31), ("pad_id", -1), ("temperature", math.nan),
        ("temperature", -0.1), ("temperature", math.inf), ("temperature", 10**400), ("top_k", -1), ("top_k", 2**31),
        ("top_p", 1.5), ("top_p", -0.1), ("top_p", math.nan), ("seed", -1), ("seed", 2**64),
        ("repetition_penalty", 0), ("repetition_penalty", -math.inf), ("presence_penalty", 101),
        ("frequency_penalty", math.nan),
    ],
)  # fmt: skip
def test_out_of_range(name, value):
    with pytest.raises(RequestError) as caught:
        read(**{name: value})
    assert caught.value.code == "E-PARAM-RANGE"
    assert f"{name} is " in str(caught.value)
    assert " is allowed" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 1.5), ("max_tokens", "8"), ("max_tokens", True), ("max_tokens", [1, 2]), ("max_tokens", []),
        ("top_k", math.nan), ("temperature", "hot"), ("stream", 1), ("text_input", 7), ("text_input", ["a", "b"]),
        ("stop_words", [7]), ("image_url_input", [7]), ("seed", np.array([1.0], np.float32)),
    ],
)  # fmt: skip
def test_of_the_wrong_type(name, value):
    assert code_of(**{name: value}) == "E-PARAM-TYPE"


@pytest.mark.parametrize("name", ["text_input", "max_tokens"])
def test_missing(name):
    assert code_of(**{name: None}) == "E-PARAM-MISSING"


@pytest.mark.parametrize("text", [b"\xff\xfe", "\ud800", b"\xed\xa0\x80"])
def test_text_that_is_not_utf8(text):
    assert code_of(text_input=text) == "E-PROMPT-UTF8"
    assert code_of(stop_words=[text]) == "E-PROMPT-UTF8"


def test_too_many_or_too_long_words():
    assert code_of(stop_words=["x"] * 65) == "E-PARAM-WORDS"
    assert code_of(bad_words=["x" * 513]) == "E-PARAM-WORDS"
    assert read(stop_words=[*["x"] * 64, "", ""]).stop_words == ("x",) * 64


def test_pictures_are_counted_before_any_is_read():
    assert code_of(image_url_input=["http://example.com"] * 3) == "E-IMAGE-COUNT"
    assert code_of(image_url_input=["http://example.com"]) == "E-IMAGE-URL"
    assert read(image_url_input=URI).images == (b"not looked at here",)


@pytest.mark.parametrize(
    ("asked", "top_k"),
    [
        ({}, 1), ({"temperature": 1.0}, 1), ({"top_p": 1.0}, 1), ({"temperature": 0.7}, 0), ({"top_p": 0.9}, 0),
        ({"temperature": 0.7, "top_k": 5}, 5), ({"top_k": 0}, 0), ({"temperature": 0.0}, 1), ({"top_p": 0.0}, 1),
        ({"temperature": 0.0, "top_k": 50}, 1), ({"top_p": 0.0, "top_k": 0}, 1),
    ],
)  # fmt: skip
def test_when_tokens_are_sampled(asked, top_k):
    sampling = read(**asked).sampling
    assert sampling.top_k == top_k
    assert sampling.temperature > 0
    assert sampling.top_p > 0


def test_a_bad_value_is_an_error_beside_a_greedy_one():
    assert code_of(temperature=0.0, top_k=-1) == "E-PARAM-RANGE"


ANY = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)


@given(st.dictionaries(st.sampled_from(sorted(SUPPORTED | UNSUPPORTED.keys())), ANY | st.lists(ANY, max_size=3)))
@settings(deadline=None)
def test_any_values_are_read_or_refused(values):
    code = None
    try:
        fields = RequestFields.from_client(values, max_images=2)
    except RequestError as error:
        code = error.code
    assert fields.max_tokens >= 1 if code is None else code.startswith(("E-PARAM-", "E-PROMPT-", "E-IMAGE-"))
