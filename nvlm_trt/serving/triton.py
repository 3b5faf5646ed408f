"""What the Python models of the repository share: converting tensors and errors between Triton's types and ours.

Only importable inside a Triton model process, where the server provides ``triton_python_backend_utils``.
"""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from nvlm_trt.errors import CancelledError, NvlmError, RequestError, ServerError

__all__ = [
    "Parameters",
    "TritonReply",
    "answer_all",
    "check_wanted",
    "failure",
    "read_id",
    "read_inputs",
    "read_parameters",
    "reporting_start",
    "stop_decoder",
    "success",
]

# By name: what the server provides is complete only once the model's module has been imported.
_ERROR_CODES = {400: "INVALID_ARG", 499: "CANCELLED", 503: "UNAVAILABLE"}


class Parameters:
    """The ``parameters`` of a model's config.pbtxt, and its ``max_batch_size``."""

    def __init__(self, args: Mapping[str, str]) -> None:
        config = json.loads(args["model_config"])
        self._values = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.max_batch_size: int = config["max_batch_size"]

    def text(self, key: str) -> str:
        value: str = self._values[key]
        return value

    def optional(self, key: str) -> str:
        """Empty where the configuration has none."""
        value: str = self._values.get(key, "")
        return value

    def path(self, key: str) -> Path:
        return Path(self._values[key])

    def integer(self, key: str) -> int:
        return int(self._values[key])

    def flag(self, key: str) -> bool:
        return bool(self._values[key] == "true")


@contextmanager
def reporting_start() -> Iterator[None]:
    """Wraps ``initialize``: an error of ours goes to the log as its own text, where the launcher finds it."""
    try:
        yield
    except NvlmError as error:
        raise pb_utils.TritonModelException(str(error)) from None


def read_inputs(request: Any) -> dict[str, NDArray[Any]]:
    """All inputs by name, copied: what Triton hands over lives only until ``execute`` returns."""
    return {tensor.name(): np.array(tensor.as_numpy()) for tensor in request.inputs()}


def read_id(request: Any) -> str:
    """Raises ``RequestError`` E-PARAM-UTF8: the server's HTTP door lets any bytes through."""
    try:
        request_id: str = request.request_id()
        return request_id
    except UnicodeDecodeError:
        raise _not_utf8() from None


def read_parameters(request: Any) -> dict[str, Any]:
    """Its id is among them, if it has one. Raises ``RequestError`` E-PARAM-UTF8."""
    try:
        parameters: dict[str, Any] = json.loads(request.parameters() or "{}")
        return parameters
    except UnicodeDecodeError:
        raise _not_utf8() from None


def check_wanted(request: Any) -> None:
    """Raises ``CancelledError`` E-CANCEL-REQUEST once its client has gone.

    Triton tells a step of an ensemble only what it knew when the step began. So the decoder, whose step begins once,
    never learns of it, but each step after one of its responses does.
    """
    if request.is_cancelled():
        raise CancelledError("E-CANCEL-REQUEST", "The request was cancelled.")


def stop_decoder(request_id: str) -> None:
    """End what the decoder still does for a request that came through the ensemble, as a client could."""
    if request_id:
        stop = pb_utils.InferenceRequest(
            model_name="tensorrt_llm",
            request_id=request_id,
            requested_output_names=["output_ids"],
            inputs=[
                pb_utils.Tensor("stop", np.array([[True]])),
                pb_utils.Tensor("input_lengths", np.zeros((1, 1), np.int32)),
                pb_utils.Tensor("request_output_len", np.zeros((1, 1), np.int32)),
            ],
        )
        for response in stop.exec(decoupled=True):
            if response.has_error():
                pb_utils.Logger.log_warn(f"{request_id} was not stopped: {response.error().message()}")


def success(tensors: Mapping[str, Any]) -> Any:
    """A response; torch tensors travel by DLPack, the only way for BF16. All are in host memory."""
    return pb_utils.InferenceResponse([_to_triton(name, tensor) for name, tensor in tensors.items()])


def failure(error: BaseException) -> Any:
    """A response for an error: ours in full. Any other goes only to the log, because it may contain what is not for
    clients."""
    if not isinstance(error, NvlmError):
        pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
        error = ServerError("E-SERVER-INTERNAL", "The server failed to answer.", "Its log says why.")
    code = getattr(pb_utils.TritonError, _ERROR_CODES.get(error.http_status, "INTERNAL"))
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))


def answer_all(requests: list[Any], answer: Callable[[Any], Mapping[str, Any]]) -> list[Any]:
    """``execute`` of a model that answers one request after another."""
    responses = []
    for request in requests:
        try:
            responses.append(success(_requested(answer(request), request.requested_output_names())))
        except Exception as error:
            responses.append(failure(error))
    return responses


class TritonReply:
    """A ``Reply`` through a response sender. It needs its lock because Triton frees the sender's other half with the
    final response, after which asking it anything reads freed memory."""

    def __init__(self, request: Any) -> None:
        self._sender = request.get_response_sender()
        self._lock = threading.Lock()
        self._open = True

    def send(self, tensors: Mapping[str, Any], *, final: bool) -> None:
        self._send(success(tensors), final)

    def fail(self, error: BaseException) -> None:
        self._send(failure(error), True)

    def end(self) -> None:
        self._send(None, True)

    def is_cancelled(self) -> bool:
        with self._lock:
            return self._open and bool(self._sender.is_cancelled())

    def _send(self, response: Any, final: bool) -> None:
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        try:
            with self._lock:
                if self._open:
                    self._open = not final
                    if response is None:
                        self._sender.send(flags=flags)
                    else:
                        self._sender.send(response, flags=flags)
        except Exception as error:
            # The caller is an engine's thread, which must outlive one client's trouble.
            pb_utils.Logger.log_error("".join(traceback.format_exception(error)))


def _not_utf8() -> RequestError:
    return RequestError("E-PARAM-UTF8", "The id or a parameter is not valid UTF-8.", "Send it encoded as UTF-8.")


def _requested(tensors: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: tensor for name, tensor in tensors.items() if name in names}


def _to_triton(name: str, tensor: Any) -> Any:
    if isinstance(tensor, np.ndarray):
        return pb_utils.Tensor(name, np.ascontiguousarray(tensor))
    return pb_utils.Tensor.from_dlpack(name, tensor.contiguous())
