"""What is refused and what is not at both doors. Hostile requests are in ``tests/attacks``."""

from __future__ import annotations

import pytest

from nvlm_trt.client import AskOptions, GrpcClient
from nvlm_trt.client.wire import write_request
from nvlm_trt.errors import RequestError
from tests.attacks.doors import GenerateDoor

_TINY_GIF = bytes.fromhex("47494638396101000100800000ffffff00000021f90401000000002c00000000010001000002024401003b")
GOOD = {"text_input": "Hello", "max_tokens": 3}


def test_neutral_values_of_what_is_not_offered_are_accepted(server):
    neutral = {"beam_width": 1, "length_penalty": 1.0, "return_num_input_tokens": True, "exclude_input_in_output": True}
    door = GenerateDoor(server.address)
    reply = door.send({**GOOD, **neutral})
    assert reply.text
    assert reply == door.send(GOOD)


def test_the_client_raises_the_servers_own_error(client):
    with pytest.raises(RequestError, match="E-IMAGE-FORMAT: Picture 2"):
        client.ask("What?", [_TINY_GIF, b"no picture"], AskOptions(max_tokens=2))
    with pytest.raises(RequestError, match="E-PROMPT-LENGTH"):
        client.measure("word " * 20_000)


def test_a_full_decoder_refuses_at_once_and_serves_the_rest(server):
    """More requests than slots and queue: some are refused as overload, all others are answered."""
    values = {**GOOD, "stream": True}
    with GrpcClient(server.grpc_url) as client:
        requests = [write_request("ensemble", f"full-{n}", values) for n in range(400)]
        calls = [client._stub.ModelStreamInfer(iter([request])) for request in requests]
        outcomes = [[response.error_message for response in call] for call in calls]
    refused = [messages for messages in outcomes if any(messages)]
    assert all("E-BUSY-" in messages[-1] for messages in refused)
    assert all(messages for messages in outcomes if not any(messages))
    assert len(refused) < len(outcomes)
