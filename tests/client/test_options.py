from __future__ import annotations

import base64
import math

import pytest

from nvlm_trt.client import AskOptions, GrpcClient, HttpClient, open_client
from nvlm_trt.client.options import request_values
from nvlm_trt.errors import RequestError, UsageError
from nvlm_trt.serving.parameters import SUPPORTED, RequestFields


@pytest.mark.parametrize(
    "values",
    [
        {"max_tokens": 0},
        {"max_tokens": -1},
        {"max_tokens": 2**31},
        {"max_tokens": 2, "min_tokens": 3},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_p": 1.5},
        {"top_k": -1},
        {"seed": -1},
        {"seed": 2**64},
        {"repetition_penalty": 0.0},
    ],
)
def test_values_out_of_range_never_leave_the_client(values):
    with pytest.raises(RequestError, match="E-PARAM-RANGE"):
        AskOptions(**values)


def test_text_that_no_protocol_can_carry_never_leaves_the_client():
    with pytest.raises(RequestError, match="E-PROMPT-UTF8"):
        request_values("\ud800", (), AskOptions())
    with pytest.raises(RequestError, match="E-PROMPT-UTF8"):
        AskOptions(stop_words=("\udc80",))


def test_only_what_was_chosen_is_sent():
    assert request_values("Hi", (), AskOptions()) == {
        "text_input": "Hi",
        "max_tokens": 128,
        "stream": True,
        "return_log_probs": False,
    }


def test_everything_that_can_be_chosen_is_known_to_the_server():
    options = AskOptions(4, 1, 0.5, 3, 0.5, 7, 1.5, 0.5, 0.25, ("a", "b"), ("c",), False, True)
    values = request_values("Hi", [b"GIF89a"], options)
    assert values.keys() <= SUPPORTED
    fields = RequestFields.from_client(values, max_images=1)
    assert fields.images == (b"GIF89a",)
    assert fields.sampling.seed == 7
    assert fields.stop_words == ("a", "b")
    assert not fields.stream


def test_pictures_travel_as_data_uris():
    (uri,) = request_values("Hi", [b"\xff\xd8"], AskOptions())["image_url_input"]
    assert base64.b64decode(uri.partition(",")[2]) == b"\xff\xd8"


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "https://a:1", "http://", "http://a:1/path", "grpc://a", "grpc://:1"]
)
def test_an_address_of_another_form_is_refused(url):
    with pytest.raises(UsageError, match="E-USAGE-URL"):
        open_client(url)


def test_the_scheme_chooses_the_door():
    with open_client("grpc://127.0.0.1:1") as grpc, open_client("http://127.0.0.1:1") as http:
        assert isinstance(grpc, GrpcClient)
        assert isinstance(http, HttpClient)
