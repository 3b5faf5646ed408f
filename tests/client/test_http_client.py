"""The HTTP client against servers that misbehave; a good one is in tests/triton."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from nvlm_trt.client import AskOptions, HttpClient
from nvlm_trt.errors import CancelledError, NvlmError, RequestError

TOKEN = {"text_output": "a", "num_input_tokens": 3, "num_output_tokens": 1}
WHOLE = AskOptions(stream=False)


def frame(body: object) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """A server whose ensemble answers with ``answer``, and the requests it got."""
    seen: list[tuple[str, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.path, json.loads(body)))
            if self.path.startswith("/v2/models/tensorrt_llm"):
                self.send_response(200)
                self.end_headers()
            else:
                answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def saying(status: int, *pieces: bytes, after: Callable[[], object] | None = None):
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.end_headers()
        for piece in pieces:
            handler.wfile.write(piece)
        handler.wfile.flush()
        if after:
            after()

    return answer


def code_of(answer, options: AskOptions | None = None, timeout_s: float = 5.0) -> str:
    with serving(answer) as (url, _), HttpClient(url, timeout_s) as client:
        with pytest.raises(NvlmError) as caught:
            client.ask("Hi", (), options)
        return caught.value.code


ERROR = {"error": "in ensemble 'ensemble', E-PARAM-RANGE: top_p is 2."}


def test_errors_are_found_wherever_they_stand():
    assert code_of(saying(400, frame(ERROR))) == "E-PARAM-RANGE"
    assert code_of(saying(400, json.dumps(ERROR).encode()), WHOLE) == "E-PARAM-RANGE"
    assert code_of(saying(200, json.dumps(ERROR).encode()), WHOLE) == "E-PARAM-RANGE"
    assert code_of(saying(200, frame(TOKEN), frame(ERROR))) == "E-PARAM-RANGE"


def test_log_probs_are_those_of_the_responses_own_tokens():
    """TensorRT-LLM sends them for all tokens so far, with each response again."""
    told = [(1, -0.5), (2, [-0.5, -1.0, -2.0]), (0, [-0.5, -1.0, -2.0])]
    frames = [frame({**TOKEN, "num_output_tokens": tokens, "output_log_probs": so_far}) for tokens, so_far in told]
    with serving(saying(200, *frames)) as (url, _), HttpClient(url) as client:
        assert [chunk.log_probs for chunk in client.stream("Hi")] == [(-0.5,), (-1.0, -2.0), ()]
        assert client.ask("Hi").log_probs == (-0.5, -1.0, -2.0)


def test_an_error_after_the_first_token_leaves_the_first_token():
    with serving(saying(200, frame(TOKEN), frame(ERROR))) as (url, _), HttpClient(url) as client:
        stream = client.stream("Hi")
        assert next(stream).text == "a"
        with pytest.raises(RequestError, match="E-PARAM-RANGE"):
            next(stream)


@pytest.mark.parametrize(
    "answer",
    [
        saying(200, b"data: nonsense\n\n"),
        saying(200, frame([1])),
        saying(200, frame({"text_output": "a"})),
        saying(200, frame({**TOKEN, "num_input_tokens": "many"})),
        saying(404, b"<html>not found</html>"),
        saying(500),
    ],
)
def test_what_is_no_such_server_is_told_apart(answer):
    assert code_of(answer) == "E-SERVER-PROTOCOL"


def test_a_stream_without_a_token_is_an_error():
    assert code_of(saying(200)) == "E-SERVER-EMPTY"


def test_nobody_there_is_told_with_the_next_step():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with (
        HttpClient(f"http://127.0.0.1:{port}") as client,
        pytest.raises(NvlmError, match=r"E-SERVER-UNREACHABLE: .*serve"),
    ):
        client.ask("Hi")


def test_silence_is_ended_and_the_server_asked_to_stop():
    go_on = threading.Event()
    try:
        answer = saying(200, frame(TOKEN), after=lambda: go_on.wait(10))
        with serving(answer) as (url, seen), HttpClient(url, timeout_s=0.2) as client:
            stream = client.stream("Hi")
            assert next(stream).text == "a"
            with pytest.raises(NvlmError, match=r"E-SERVER-TIMEOUT: The server sent nothing for 0\.2 s"):
                next(stream)
            go_on.set()
            assert [path for path, _ in seen][-1].endswith("tensorrt_llm/generate_stream")
            assert seen[-1][1]["id"] == stream.request_id
    finally:
        go_on.set()


def test_a_connection_that_breaks_is_not_an_end():
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(json.dumps(TOKEN).encode())

    assert code_of(answer, WHOLE) == "E-SERVER-LOST"


def test_leaving_early_sends_a_stop_and_a_finished_stream_does_not():
    go_on = threading.Event()
    answer = saying(200, frame(TOKEN), after=lambda: go_on.wait(10))
    with serving(answer) as (url, seen), HttpClient(url) as client:
        with client.stream("Hi") as stream:
            next(stream)
        go_on.set()
        assert seen[-1][1] == {"id": stream.request_id, "stop": True, "input_lengths": 0, "request_output_len": 0}
        seen.clear()
        assert client.ask("Hi").text == "a"
        assert len(seen) == 1


def test_a_stream_that_was_never_read_was_never_sent():
    with serving(saying(200)) as (url, seen), HttpClient(url) as client:
        client.stream("Hi").close()
        assert seen == []


def test_a_cancelled_request_is_its_own_error():
    error = {"error": "E-CANCEL-STOPPED: The request was stopped before its end."}
    with (
        serving(saying(200, frame(TOKEN), frame(error))) as (url, _),
        HttpClient(url) as client,
        pytest.raises(CancelledError),
    ):
        client.ask("Hi")


@pytest.mark.parametrize("body", [{}, {"outputs": [{"name": "input_lengths", "data": []}]}, {"outputs": 3}])
def test_a_measurement_that_cannot_be_read_is_told(body):
    with (
        serving(saying(200, json.dumps(body).encode())) as (url, _),
        HttpClient(url) as client,
        pytest.raises(NvlmError, match="E-SERVER-PROTOCOL"),
    ):
        client.measure("Hi", [b"x"])
