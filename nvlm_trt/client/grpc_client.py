"""A client over gRPC: one ``ModelStreamInfer`` call for each request.

It calls the generated stub, not tritonclient's stream, which allows one stream for each client and names neither the
request nor the kind of an error. Triton gives no sign of life between tokens, and gRPC only has deadlines for whole
calls. So a thread reads, and the caller waits for it, at most ``timeout_s`` each time.

A call that is cancelled just after its end can leave Triton's ensemble unable to unload. So a caller that leaves early
asks the decoder to stop, takes what still comes, and cancels only if the end does not come.
"""

from __future__ import annotations

import queue
import re
import threading
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from nvlm_trt.client.answer import FACTS, Answer, AnswerStream, Chunk, PromptFacts, log_probs_of
from nvlm_trt.client.failures import lost, refused, timed_out, unreachable, unreadable
from nvlm_trt.client.options import AskOptions, request_values
from nvlm_trt.client.wire import read_outputs, write_request
from nvlm_trt.errors import NvlmError, UsageError

__all__ = [
    "CHANNEL",
    "NO_LIMIT",
    "GrpcClient",
    "grpc_failure",
    "measure_request",
    "read_address",
    "read_chunk",
    "read_facts",
    "stop_request",
]

_STOP_TIMEOUT_S = 5.0
# What gRPC says of a port that can be reached and answers its greeting in HTTP 1, or hangs up.
_NO_GRPC = re.compile("failed to connect .*(Failed parsing HTTP/2|http1.x server|Socket closed)", re.DOTALL)
NO_LIMIT = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
CHANNEL = [
    *NO_LIMIT,
    # As over HTTP: straight, whatever proxy the environment names.
    ("grpc.enable_http_proxy", 0),
    # A server that is started again is found within a second; left to itself gRPC would come to look every two minutes.
    # The least of these times must not be lowered as well: it is also how long a server may take to greet.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class GrpcClient:
    """One connection with any number of requests at once, from any thread. ``close`` it.

    ``timeout_s`` bounds each wait for the next piece of an answer.
    """

    def __init__(self, url: str, timeout_s: float = 60.0) -> None:
        """``url`` is grpc://HOST:PORT. Raises ``UsageError`` E-USAGE-URL."""
        self.url = url
        self.timeout_s = timeout_s
        self._channel = grpc.insecure_channel(read_address(url), CHANNEL)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def ask(self, question: str, images: Sequence[bytes] = (), options: AskOptions | None = None) -> Answer:
        """Raises the server's ``NvlmError``, or ``ServerError`` E-SERVER-*."""
        with self.stream(question, images, options) as stream:
            return stream.finish()

    def stream(self, question: str, images: Sequence[bytes] = (), options: AskOptions | None = None) -> AnswerStream:
        """Chunks as they come, one if ``options.stream`` is off. Errors are raised while iterating."""
        request_id = uuid.uuid4().hex
        values = request_values(question, images, options or AskOptions())
        return AnswerStream(self._chunks(values, request_id), request_id)

    def measure(self, question: str, images: Sequence[bytes] = ()) -> PromptFacts:
        """Ask only what the question would cost; the engines do no work."""
        values = request_values(question, images, AskOptions(max_tokens=1, stream=False))
        try:
            response = self._stub.ModelInfer(measure_request(values, ""), timeout=self.timeout_s)
        except grpc.RpcError as error:
            raise grpc_failure(error, self.url, self.timeout_s) from None
        return read_facts(response)

    def stop(self, request_id: str) -> None:
        """End a request that is being answered. Nothing happens if there is none."""
        try:
            for response in self._stub.ModelStreamInfer(iter([stop_request(request_id)]), timeout=_STOP_TIMEOUT_S):
                if response.error_message:
                    raise refused(response.error_message)
        except grpc.RpcError as error:
            raise grpc_failure(error, self.url, self.timeout_s) from None

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> GrpcClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _chunks(self, values: Mapping[str, Any], request_id: str) -> Generator[Chunk, None, None]:
        call = _Call(self._stub.ModelStreamInfer(iter([write_request("ensemble", request_id, values)])))
        try:
            for response in call.messages(self.timeout_s):
                if response.error_message:
                    raise refused(response.error_message)
                if response.infer_response.outputs:
                    yield read_chunk(response.infer_response)
        except grpc.RpcError as error:
            raise grpc_failure(error, self.url, self.timeout_s) from None
        finally:
            if not call.ended:
                with suppress(NvlmError):
                    self.stop(request_id)
            call.close(_STOP_TIMEOUT_S)


class _Call:
    """A streaming call read by a thread of its own, which ends when the call does."""

    _END = object()

    def __init__(self, call: Any) -> None:
        self._call = call
        self._arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.ended = False
        self._thread = threading.Thread(target=self._read, name="grpc-answer", daemon=True)
        self._thread.start()

    def messages(self, timeout_s: float) -> Iterator[Any]:
        """Raises ``ServerError`` E-SERVER-TIMEOUT, or the call's ``grpc.RpcError``."""
        while not self.ended:
            try:
                item = self._arrived.get(timeout=timeout_s)
            except queue.Empty:
                raise timed_out(timeout_s) from None
            if item is self._END:
                self.ended = True
            elif isinstance(item, grpc.RpcError):
                self.ended = True
                raise item
            else:
                yield item

    def close(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._call.cancel()
            self._thread.join()

    def _read(self) -> None:
        try:
            for message in self._call:
                self._arrived.put(message)
            self._arrived.put(self._END)
        except grpc.RpcError as error:
            self._arrived.put(error)


def read_address(url: str) -> str:
    """HOST:PORT of grpc://HOST:PORT. Raises ``UsageError`` E-USAGE-URL."""
    address = url.removeprefix("grpc://").rstrip("/")
    host, _, port = address.rpartition(":")
    if address == url or not host or not port.isdecimal():
        raise UsageError("E-USAGE-URL", f"{url!r} is not grpc://HOST:PORT.", "Correct the address.")
    return address


def stop_request(request_id: str) -> Any:
    values = {"stop": True, "input_lengths": 0, "request_output_len": 0}
    return write_request("tensorrt_llm", request_id, values, batched=True)


def measure_request(values: Mapping[str, Any], request_id: str) -> Any:
    """A request to ``preprocessing`` alone, which asks for the facts about the prompt and not for its tiles."""
    return write_request("preprocessing", request_id, values, outputs=FACTS)


def read_facts(response: Any) -> PromptFacts:
    """Raises ``ServerError`` E-SERVER-PROTOCOL for outputs that are not preprocessing's."""
    try:
        return PromptFacts.from_outputs(read_outputs(response))
    except (KeyError, ValueError, IndexError) as error:
        raise unreadable(error) from None


def read_chunk(response: Any) -> Chunk:
    """Raises ``ServerError`` E-SERVER-PROTOCOL for outputs that are not the ensemble's."""
    try:
        outputs = read_outputs(response)
        return Chunk(
            text=b"".join(outputs["text_output"]).decode(),
            input_tokens=outputs["num_input_tokens"][0],
            output_tokens=outputs["num_output_tokens"][0],
            log_probs=log_probs_of(outputs.get("output_log_probs", ()), outputs["num_output_tokens"][0]),
        )
    except (KeyError, IndexError, ValueError) as error:
        raise unreadable(error) from None


def grpc_failure(error: grpc.RpcError, url: str, timeout_s: float) -> NvlmError:
    """The error for a failed call to ``url`` that had ``timeout_s`` seconds."""
    code, details = error.code(), error.details() or ""
    if _NO_GRPC.search(details):
        return unreadable(details)
    if code is grpc.StatusCode.UNAVAILABLE and not details.startswith("in ensemble"):
        return lost(details) if "reset" in details.lower() else unreachable(url, details)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return timed_out(timeout_s)
    if code is grpc.StatusCode.CANCELLED:
        return lost(details)
    return refused(details)
