from __future__ import annotations

import json

import pytest

from nvlm_trt.gateway.chat_request import read_chat_request
from nvlm_trt.gateway.refusal import Refusal
from nvlm_trt.gateway.settings import GatewaySettings, Limits
from nvlm_trt.serving.parameters import SUPPORTED, RequestFields

BODY = {"model": "nvlm-d", "messages": [{"role": "user", "content": "Hello"}]}


def read(settings, **options):
    return read_chat_request({**BODY, **options}, settings)


def inputs_of(request, choice=0):
    return request.ensemble_inputs(choice, [])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_tokens": 5, "stop": "x", "logprobs": True, "stream": True, "seed": 3},
        {"temperature": 0.5, "top_p": 0.5, "top_k": 5, "min_tokens": 2, "ignore_eos": True},
        {"presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.5},
    ],
)
def test_the_ensemble_takes_what_is_made(settings, options):
    """And what it reads of it is what was asked."""
    inputs = inputs_of(read(settings, **options))
    assert inputs.keys() <= SUPPORTED
    fields = RequestFields.from_client(inputs, max_images=1)
    assert fields.conversation is not None
    assert fields.max_tokens == options.get("max_tokens", 4096)
    assert fields.conversation.fit == ("max_tokens" not in options)
    for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "seed"):
        if name in options:
            assert getattr(fields.sampling, name) == options[name]
    assert fields.end_id == (-1 if "ignore_eos" in options else None)
    assert fields.stop_words == ()


@pytest.mark.parametrize(
    ("options", "top_k"),
    [
        ({}, 1),
        ({"temperature": 1}, 0),
        ({"top_p": 1.0}, 0),
        ({"temperature": 0.7}, 0),
        ({"temperature": 0}, 1),
        ({"temperature": 1, "top_p": 0}, 1),
        ({"temperature": 1, "top_k": 20}, 20),
        ({"temperature": 0, "top_k": 20}, 1),
        ({"temperature": None, "top_p": None}, 1),
    ],
)
def test_asking_for_a_temperature_samples_and_asking_nothing_does_not(settings, options, top_k):
    sampling = RequestFields.from_client(inputs_of(read(settings, **options)), max_images=1).sampling
    assert sampling.top_k == top_k


def test_seeds_follow_each_other_and_turn_over(settings):
    request = read(settings, seed=2**64 - 1, n=2, temperature=1)
    assert [inputs_of(request, choice)["seed"] for choice in range(2)] == [2**64 - 1, 0]
    assert read(settings, temperature=1).seed != read(settings, temperature=1).seed


def test_the_decoder_streams_where_each_token_is_looked_at(settings):
    streams = [inputs_of(read(settings, **options))["stream"] for options in ({}, {"stop": "a"}, {"logprobs": True})]
    assert streams == [False, True, True]


@pytest.mark.parametrize(
    "neutral",
    [
        {"tools": []},
        {"tool_choice": "none"},
        {"response_format": {"type": "text"}},
        {"logit_bias": {}},
        {"store": False},
        {"user": "someone"},
        {"safety_identifier": "someone", "prompt_cache_key": "theirs"},
        {"functions": None},
        {"stop": []},
        {"stop": ""},
        {"top_logprobs": 0},
        {"nobody_knows": None},
        {"max_tokens": 7, "max_completion_tokens": 7},
    ],
)
def test_a_value_that_asks_for_nothing_is_taken(settings, neutral):
    read(settings, **neutral)


@pytest.mark.parametrize(
    ("options", "code", "param"),
    [
        ({"model": None}, "E-PARAM-MISSING", "model"),
        ({"messages": None}, "E-PARAM-MISSING", "messages"),
        ({"model": "other"}, "E-DOOR-MODEL", "model"),
        ({"model": ["nvlm-d"]}, "E-DOOR-MODEL", "model"),
        ({"nobody_knows": 1}, "E-PARAM-UNSUPPORTED", "nobody_knows"),
        ({"tools": [{}]}, "E-PARAM-UNSUPPORTED", "tools"),
        ({"response_format": {"type": "json_object"}}, "E-PARAM-UNSUPPORTED", "response_format"),
        ({"store": 0}, "E-PARAM-UNSUPPORTED", "store"),
        ({"logit_bias": {"5": 1}}, "E-PARAM-UNSUPPORTED", "logit_bias"),
        ({"top_logprobs": 1}, "E-PARAM-UNSUPPORTED", "top_logprobs"),
        ({"user": 5}, "E-PARAM-UNSUPPORTED", "user"),
        ({"max_tokens": 0}, "E-PARAM-RANGE", "max_tokens"),
        ({"max_tokens": 4097}, "E-PARAM-RANGE", "max_tokens"),
        ({"max_tokens": True}, "E-PARAM-TYPE", "max_tokens"),
        ({"max_tokens": 5.0}, "E-PARAM-TYPE", "max_tokens"),
        ({"max_tokens": 10**400}, "E-PARAM-RANGE", "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "E-PARAM-RANGE", "max_tokens"),
        ({"min_tokens": 9, "max_tokens": 5}, "E-PARAM-RANGE", "min_tokens"),
        ({"n": 9, "temperature": 1}, "E-PARAM-RANGE", "n"),
        ({"n": 2}, "E-PARAM-RANGE", "n"),
        ({"n": 2, "temperature": 0}, "E-PARAM-RANGE", "n"),
        ({"temperature": "1"}, "E-PARAM-TYPE", "temperature"),
        ({"temperature": -0.1}, "E-PARAM-RANGE", "temperature"),
        ({"temperature": 1e400}, "E-PARAM-RANGE", "temperature"),
        ({"temperature": 10**400}, "E-PARAM-RANGE", "temperature"),
        ({"top_p": 1.1}, "E-PARAM-RANGE", "top_p"),
        ({"top_k": -1}, "E-PARAM-RANGE", "top_k"),
        ({"seed": 2**64}, "E-PARAM-RANGE", "seed"),
        ({"seed": "1"}, "E-PARAM-TYPE", "seed"),
        ({"stream": "yes"}, "E-PARAM-TYPE", "stream"),
        ({"stream_options": {"include_usage": True}}, "E-PARAM-TYPE", "stream_options"),
        ({"stream": True, "stream_options": {"more": 1}}, "E-PARAM-UNSUPPORTED", "stream_options.more"),
        ({"stop": 5}, "E-PARAM-TYPE", "stop"),
        ({"stop": {"a": 1}}, "E-PARAM-TYPE", "stop"),
        ({"stop": ["x"] * 65}, "E-PARAM-WORDS", "stop"),
        ({"stop": "x" * 513}, "E-PARAM-WORDS", "stop"),
        ({"stop": "\ud800"}, "E-PROMPT-UTF8", "stop"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(settings, options, code, param):
    with pytest.raises(Refusal) as refused:
        read(settings, **options)
    assert (refused.value.code, refused.value.param) == (code, param)


@pytest.mark.parametrize("body", [[], "text", 5, None])
def test_a_body_that_is_no_object(settings, body):
    with pytest.raises(Refusal, match="E-PARAM-TYPE"):
        read_chat_request(body, settings)


def test_the_pixel_limit_goes_with_the_conversation():
    inputs = inputs_of(read(GatewaySettings(limits=Limits(pixels=1000))))
    assert json.loads(inputs["conversation"])["max_pixels"] == 1000
