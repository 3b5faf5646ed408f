"""The gRPC client against servers that misbehave; a good one is in tests/triton."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from nvlm_trt.client import GrpcClient
from nvlm_trt.errors import NvlmError, RequestError


def token(text: str = "a", log_probs: Sequence[float] = (), **left_out: bool) -> Any:
    response = service_pb2.ModelStreamInferResponse()
    infer = response.infer_response
    outputs = {
        "text_output": ("BYTES", struct.pack("<I", len(text)) + text.encode()),
        "num_input_tokens": ("INT32", np.int32(3).tobytes()),
        "num_output_tokens": ("INT32", np.int32(1).tobytes()),
        **({"output_log_probs": ("FP32", np.array(log_probs, np.float32).tobytes())} if log_probs else {}),
    }
    for name, (datatype, contents) in outputs.items():
        if name not in left_out:
            infer.outputs.add(name=name, datatype=datatype, shape=[1])
            infer.raw_output_contents.append(contents)
    return response


def error(message: str) -> Any:
    return service_pb2.ModelStreamInferResponse(error_message=message)


@contextmanager
def serving(answer: Callable[[Any, Any], Iterator[Any]]) -> Iterator[tuple[str, list[Any]]]:
    """A server whose ensemble answers with ``answer``, and the requests it got."""
    seen: list[Any] = []

    class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
        def ModelStreamInfer(self, requests, context):
            request = next(requests)
            seen.append(request)
            if request.model_name != "tensorrt_llm":
                yield from answer(request, context)

        def ModelInfer(self, request, context):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "E-IMAGE-FORMAT: Picture 1 is not a picture.")

    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"grpc://127.0.0.1:{port}", seen
        finally:
            server.stop(0).wait()


@contextmanager
def behind_a_slow_link(url: str, delay_s: float) -> Iterator[str]:
    """What the server says arrives ``delay_s`` seconds late."""

    def pump(source: socket.socket, sink: socket.socket, wait_s: float) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                time.sleep(wait_s)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def relay() -> None:
        with listener.accept()[0] as near, socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as far:
            there = threading.Thread(target=pump, args=(near, far, 0.0))
            there.start()
            pump(far, near, delay_s)
            there.join()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=relay)
        thread.start()
        yield f"grpc://127.0.0.1:{listener.getsockname()[1]}"
    thread.join()


def test_a_server_that_takes_its_time_to_greet_is_waited_for():
    """A starved one does, and one on another continent."""
    answers = serving(lambda *_: iter([token("a")]))
    with answers as (url, _), behind_a_slow_link(url, 0.3) as slow, GrpcClient(slow) as client:
        assert client.ask("Hi").text == "a"


def test_tokens_come_in_order_and_a_finished_stream_is_not_stopped():
    with serving(lambda *_: iter([token("a"), token("b")])) as (url, seen), GrpcClient(url) as client:
        answer = client.ask("Hi")
        assert (answer.text, answer.input_tokens, answer.output_tokens) == ("ab", 3, 2)
        assert [request.model_name for request in seen] == ["ensemble"]
        assert seen[0].id


def test_log_probs_are_those_of_the_responses_own_tokens():
    """TensorRT-LLM sends them for all tokens so far, with each response again."""
    tokens = [token(log_probs=[-0.5]), token(log_probs=[-0.5, -1.0])]
    with serving(lambda *_: iter(tokens)) as (url, _), GrpcClient(url) as client:
        assert client.ask("Hi").log_probs == (-0.5, -1.0)


def test_an_empty_response_at_the_end_is_no_chunk():
    empty = service_pb2.ModelStreamInferResponse()
    with serving(lambda *_: iter([token(), empty])) as (url, _), GrpcClient(url) as client:
        assert len(list(client.stream("Hi"))) == 1


def test_an_error_after_the_first_token_is_raised_in_its_place():
    message = "in ensemble 'ensemble', E-PARAM-RANGE: top_p is 2."
    with serving(lambda *_: iter([token(), error(message)])) as (url, _), GrpcClient(url) as client:
        stream = client.stream("Hi")
        assert next(stream).text == "a"
        with pytest.raises(RequestError, match="E-PARAM-RANGE"):
            next(stream)


def test_an_error_of_a_plain_call_is_the_servers_own():
    with (
        serving(lambda *_: iter([])) as (url, _),
        GrpcClient(url) as client,
        pytest.raises(RequestError, match="E-IMAGE-FORMAT"),
    ):
        client.measure("Hi", [b"x"])


def test_silence_is_ended_and_the_server_asked_to_stop():
    go_on = threading.Event()

    def answer(*_):
        yield token()
        go_on.wait(10)

    try:
        with serving(answer) as (url, seen), GrpcClient(url, timeout_s=0.2) as client:
            stream = client.stream("Hi")
            next(stream)
            threading.Timer(0.5, go_on.set).start()
            with pytest.raises(NvlmError, match="E-SERVER-TIMEOUT"):
                next(stream)
            assert [request.model_name for request in seen] == ["ensemble", "tensorrt_llm"]
            assert seen[0].id == seen[1].id == stream.request_id
    finally:
        go_on.set()


def test_leaving_early_sends_a_stop_and_takes_what_still_comes():
    stopped = threading.Event()

    def answer(*_):
        yield token()
        stopped.wait(0.2)
        yield token()

    with serving(answer) as (url, seen), GrpcClient(url) as client:
        with client.stream("Hi") as stream:
            next(stream)
        assert seen[-1].model_name == "tensorrt_llm"
        assert not [thread for thread in threading.enumerate() if thread.name == "grpc-answer"]


def test_nobody_there_is_told_with_the_next_step():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with GrpcClient(f"grpc://127.0.0.1:{port}") as client:
        with pytest.raises(NvlmError, match=r"E-SERVER-UNREACHABLE: .*serve"):
            client.ask("Hi")
        with pytest.raises(NvlmError, match="E-SERVER-UNREACHABLE"):
            client.measure("Hi")
        with pytest.raises(NvlmError, match="E-SERVER-UNREACHABLE"):
            client.stop("x")


def test_an_answer_without_its_tensors_is_told_apart():
    with (
        serving(lambda *_: iter([token(num_input_tokens=False)])) as (url, _),
        GrpcClient(url) as client,
        pytest.raises(NvlmError, match="E-SERVER-PROTOCOL"),
    ):
        client.ask("Hi")


def test_a_stream_without_a_token_is_an_error():
    with (
        serving(lambda *_: iter([])) as (url, _),
        GrpcClient(url) as client,
        pytest.raises(NvlmError, match="E-SERVER-EMPTY"),
    ):
        client.ask("Hi")


def test_a_server_that_aborts_is_an_error_of_ours():
    def answer(_, context):
        yield token()
        context.abort(grpc.StatusCode.INTERNAL, "/srv/secret.cc:12 failed")

    with (
        serving(answer) as (url, _),
        GrpcClient(url) as client,
        pytest.raises(NvlmError, match="E-SERVER-REFUSED") as caught,
    ):
        client.ask("Hi")
    assert "/srv" not in str(caught.value)
