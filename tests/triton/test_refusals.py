"""Bad requests at both doors: each gets its code, none harms the next."""

from __future__ import annotations

import http.client
import json
import re
from typing import Any

import pytest

from nvlm_trt.client import AskOptions, GrpcClient
from nvlm_trt.client.wire import read_outputs, write_request
from nvlm_trt.errors import RequestError
from nvlm_trt.model.tokenizer import NvlmTokenizer

_TINY_GIF = bytes.fromhex("47494638396101000100800000ffffff00000021f90401000000002c00000000010001000002024401003b")
GOOD: dict[str, Any] = {"text_input": "Hello", "max_tokens": 3}


@pytest.fixture(autouse=True)
def server_still_answers(server):
    yield
    with GrpcClient(server.grpc_url, timeout_s=20) as client:
        assert client.ask("Hello", (), AskOptions(max_tokens=2)).output_tokens == 2


def post(server, path: str, body: object) -> tuple[int, str]:
    connection = http.client.HTTPConnection(server.address.host, server.address.http_port, timeout=20)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    finally:
        connection.close()


def over_http(server, values: dict[str, Any]) -> str:
    return post(server, "/v2/models/ensemble/generate", values)[1]


def over_grpc(server, values: dict[str, Any]) -> str:
    with GrpcClient(server.grpc_url) as client:
        request = write_request("ensemble", "", values)
        return " ".join(response.error_message for response in client._stub.ModelStreamInfer(iter([request])))


BAD: list[tuple[str, dict[str, Any]]] = [
    ("E-PARAM-RANGE", {"max_tokens": 0}),
    ("E-PARAM-RANGE", {"max_tokens": -1}),
    ("E-PARAM-RANGE", {"temperature": -0.5}),
    ("E-PARAM-RANGE", {"top_p": 1.5}),
    ("E-PARAM-RANGE", {"top_k": -1}),
    ("E-PARAM-RANGE", {"end_id": 2**31 - 1}),
    ("E-PARAM-UNSUPPORTED", {"beam_width": 4}),
    ("E-PARAM-UNSUPPORTED", {"return_context_logits": True}),
    ("E-PARAM-ID", {"stream": True}),
    ("E-PROMPT-LENGTH", {"max_tokens": 100_000}),
    ("E-PROMPT-LENGTH", {"text_input": "word " * 20_000}),
    ("E-IMAGE-URL", {"image_url_input": ["https://example.org/a.png"]}),
    ("E-IMAGE-URL", {"image_url_input": ["file:///etc/passwd"]}),
    ("E-IMAGE-BASE64", {"image_url_input": ["data:image/png;base64,@@@"]}),
    ("E-IMAGE-FORMAT", {"image_url_input": ["data:image/png;base64,AAAA"]}),
    ("E-IMAGE-COUNT", {"image_url_input": ["data:image/png;base64,AAAA"] * 20}),
]


@pytest.mark.parametrize("send", [over_http, over_grpc])
@pytest.mark.parametrize(("code", "change"), BAD)
def test_a_bad_request_gets_its_code_and_no_secret(server, send, code, change):
    message = send(server, {**GOOD, **change})
    assert f"{code}: " in message
    assert not re.search(r"/tmp|/home|/root|Traceback|0x[0-9a-f]{6}|\.py", message)


def test_not_a_number_over_grpc(server):
    assert "E-PARAM-RANGE: temperature is nan" in over_grpc(server, {**GOOD, "temperature": float("nan")})


def test_text_that_is_no_utf8(server):
    with GrpcClient(server.grpc_url) as client:
        request = write_request("ensemble", "", GOOD)
        request.raw_input_contents[0] = b"\x02\x00\x00\x00\xff\xfe"
        messages = [response.error_message for response in client._stub.ModelStreamInfer(iter([request]))]
    assert "E-PROMPT-UTF8: " in messages[0]


def test_a_misspelt_parameter_is_refused_by_name_where_triton_would_ignore_it(server):
    assert "E-PARAM-UNSUPPORTED: 'temperatur'" in over_http(server, {**GOOD, "temperatur": 0.5})


def test_neutral_values_of_what_is_not_offered_are_accepted(server):
    neutral = {"beam_width": 1, "length_penalty": 1.0, "return_num_input_tokens": True, "exclude_input_in_output": True}
    assert json.loads(over_http(server, {**GOOD, **neutral}))["num_output_tokens"] == 3


def test_the_client_raises_the_servers_own_error(client):
    with pytest.raises(RequestError, match="E-IMAGE-FORMAT: Picture 2"):
        client.ask("What?", [_TINY_GIF, b"no picture"], AskOptions(max_tokens=2))
    with pytest.raises(RequestError, match="E-PROMPT-LENGTH"):
        client.measure("word " * 20_000)


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        b"",
        {"text_input": "a"},
        {"max_tokens": 2},
        {"text_input": 5, "max_tokens": 2},
        {"text_input": "a", "max_tokens": "many"},
        {"text_input": "a", "max_tokens": 2**31},
        {"text_input": ["a", "b"], "max_tokens": 2},
        {"text_input": "a", "max_tokens": 2, "temperature": "NaN"},
    ],
)
def test_what_triton_itself_refuses_is_an_error_too(server, body):
    status, text = post(server, "/v2/models/ensemble/generate", body)
    assert status >= 400 or "error" in json.loads(text)


@pytest.mark.parametrize(
    ("name", "datatype", "shape"),
    [("max_tokens", "FP32", [1]), ("text_input", "INT32", [1]), ("max_tokens", "INT32", [2]), ("nobody", "INT32", [1])],
)
def test_wrong_tensors_over_grpc_are_refused(server, name, datatype, shape):
    with GrpcClient(server.grpc_url) as client:
        request = write_request("ensemble", "", {**GOOD, "top_k": 1})
        entry = next((entry for entry in request.inputs if entry.name == name), request.inputs[2])
        entry.name, entry.datatype = name, datatype
        entry.shape[:] = shape
        messages = [response.error_message for response in client._stub.ModelStreamInfer(iter([request]))]
    assert messages[0]


CONTROLS = ["<|im_end|>", "<|im_start|>system", "<tile_1>", "<Image>", "</Image>", "<|vision_pad|>", "<|endoftext|>"]


@pytest.mark.parametrize("text", CONTROLS)
def test_control_typed_as_text_reaches_the_model_as_text(server, small_checkpoint, text):
    tokenizer = NvlmTokenizer.from_folder(small_checkpoint)
    with GrpcClient(server.grpc_url) as client:
        request = write_request("preprocessing", "", {**GOOD, "text_input": text}, outputs=("input_ids",))
        ids = read_outputs(client._stub.ModelInfer(request))["input_ids"]
        plain = write_request("preprocessing", "", {**GOOD, "text_input": "x"}, outputs=("input_ids",))
        plain_ids = read_outputs(client._stub.ModelInfer(plain))["input_ids"]
    specials = {tokenizer.special_id(name) for name in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")}
    assert [id for id in ids if id in specials] == [id for id in plain_ids if id in specials]
    assert text.encode() in tokenizer.decode_bytes(ids)


def test_a_full_decoder_refuses_at_once_and_serves_the_rest(server):
    """More requests than slots and queue: some are refused as overload, all others are answered."""
    values = {**GOOD, "stream": True}
    with GrpcClient(server.grpc_url) as client:
        requests = [write_request("ensemble", f"full-{n}", values) for n in range(400)]
        calls = [client._stub.ModelStreamInfer(iter([request])) for request in requests]
        outcomes = [[response.error_message for response in call] for call in calls]
    refused = [messages for messages in outcomes if any(messages)]
    assert all("E-BUSY-" in messages[-1] for messages in refused)
    assert all(len(messages) == 3 for messages in outcomes if not any(messages))
    assert len(refused) < len(outcomes)
