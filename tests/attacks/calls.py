"""Lies in gRPC's own terms: models, versions, contents, parameters, regions, and bytes that are no message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tritonclient.grpc import service_pb2 as triton

from tests.attacks.attack import ANSWERED, REFUSED
from tests.attacks.doors import GrpcDoor, Reply

__all__ = ["CALLS", "MESSAGES", "CallAttack", "MessageAttack", "good_message", "send_spoilt"]

_SERVICE = "/inference.GRPCInferenceService"
_CLOSED = "This protocol is restricted"
_PATH_REGION = "../../x"


@dataclass(frozen=True)
class MessageAttack:
    """``change`` spoils a good request to the ensemble; ``says`` is a stable part of Triton's words."""

    tried: str
    change: Callable[[Any], object] = field(repr=False)
    says: str
    code: str = REFUSED


@dataclass(frozen=True)
class CallAttack:
    """One message, as an object or as bytes, to ``method``; the call ends with ``status``."""

    tried: str
    method: str
    message: Callable[[], Any] = field(repr=False)
    status: str
    says: str = ""
    metadata: tuple[tuple[str, str], ...] = field(default=(), repr=False)


def good_message() -> Any:
    request = triton.ModelInferRequest(model_name="ensemble", id="attack")
    for name, datatype, data in (("text_input", "BYTES", b"\5\0\0\0Hello"), ("max_tokens", "INT32", b"\3\0\0\0")):
        request.inputs.add(name=name, datatype=datatype, shape=[1])
        request.raw_input_contents.append(data)
    return request


def send_spoilt(door: GrpcDoor, attack: MessageAttack) -> Reply:
    """Without what comes back of the sender's own words, with all the paths in them."""
    request = good_message()
    attack.change(request)
    reply = door.send_message(request)
    error = reply.error
    for own in (request.model_name, request.model_version, _PATH_REGION):
        error = error.replace(f"'{own}'", "")
    return replace(reply, error=error)


def _set(name: str, value: str) -> Callable[[Any], object]:
    return lambda request: setattr(request, name, value)


def _parameter(name: str, kind: str, value: Any) -> Callable[[Any], object]:
    return lambda request: setattr(request.parameters[name], kind, value)


def _typed(*values: int, other: tuple[float, ...] = ()) -> Callable[[Any], object]:
    """The request with typed contents in place of raw bytes."""

    def change(request: Any) -> None:
        del request.raw_input_contents[:]
        request.inputs[0].contents.bytes_contents.append(b"Hello")
        request.inputs[1].contents.int_contents.extend(values)
        request.inputs[1].contents.fp32_contents.extend(other)

    return change


def _in_region(part: str, region: str) -> Callable[[Any], object]:
    def change(request: Any) -> None:
        if part == "output":
            request.outputs.add(name="text_output")
        else:
            del request.raw_input_contents[0]
        tensor = request.outputs[0] if part == "output" else request.inputs[0]
        tensor.parameters["shared_memory_region"].string_param = region
        tensor.parameters["shared_memory_byte_size"].int64_param = 9

    return change


def _twice(request: Any) -> None:
    request.inputs.add().CopyFrom(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])


def _crowd(request: Any) -> None:
    for number in range(20_000):
        request.inputs.add(name=f"n{number}", datatype="INT32", shape=[1])
        request.raw_input_contents.append(bytes(4))


MESSAGES = [
    MessageAttack("a model: a path", _set("model_name", "../../etc/passwd"), "is not found"),
    MessageAttack("a model: none", _set("model_name", ""), "is not found"),
    MessageAttack("a model: one folder and another", _set("model_name", "ensemble/../tensorrt_llm"), "is not found"),
    MessageAttack("a model: a name of a megabyte", _set("model_name", "a" * 10**6), "is not found"),
    MessageAttack("a version: negative", _set("model_version", "-1"), "should be an integral value"),
    MessageAttack("a version: none", _set("model_version", "0"), "version 0 is not found"),
    MessageAttack("a version: beyond 64 bits", _set("model_version", "9" * 20), "should be an integral value"),
    MessageAttack("a version: a path", _set("model_version", "../1"), "should be an integral value"),
    MessageAttack("a version: hexadecimal", _set("model_version", "0x1"), "version 0 is not found"),
    MessageAttack("fewer contents than inputs", lambda r: r.raw_input_contents.pop(), "unable to find data"),
    MessageAttack(
        "contents twice, once typed", lambda r: r.inputs[1].contents.int_contents.append(3), "must not be specified"
    ),
    MessageAttack("typed: more values than the shape says", _typed(*[3] * 100), "Expected 4, got 400"),
    MessageAttack("typed: none", _typed(), "Expected 4, got 0"),
    MessageAttack("typed: of another type", _typed(other=(3.0,)), "unexpected explicit tensor data"),
    MessageAttack("typed: of two types", _typed(3, other=(3.0,)), "unexpected explicit tensor data"),
    MessageAttack("an input twice", _twice, "already exists"),
    MessageAttack("twenty thousand inputs", _crowd, "expected number of inputs"),
    MessageAttack("ten thousand dimensions", lambda r: r.inputs[1].shape.extend([1] * 10_000), "unexpected shape"),
    MessageAttack("no dimensions", lambda r: r.inputs[1].ClearField("shape"), "unexpected shape"),
    MessageAttack("an output nobody makes", lambda r: r.outputs.add(name="nobody"), "unexpected inference output"),
    MessageAttack("an input in a region: a path", _in_region("input", _PATH_REGION), "Unable to find shared memory"),
    MessageAttack("an output into a region", _in_region("output", "theirs"), "Unable to find shared memory"),
    MessageAttack("a negative priority", _parameter("priority", "int64_param", -1), "invalid value"),
    MessageAttack("a text as timeout", _parameter("timeout", "string_param", "x"), "invalid value type"),
    MessageAttack("a text as a sequence's start", _parameter("sequence_start", "string_param", "x"), "invalid value"),
    MessageAttack("Triton's own names", _parameter("triton_x", "string_param", "x"), "reserved for Triton"),
    MessageAttack("a parameter nobody knows", _parameter("x", "int64_param", 3), "", "E-PARAM-UNSUPPORTED"),
    MessageAttack("a sequence nobody began", _parameter("sequence_id", "int64_param", -1), "", ANSWERED),
    MessageAttack("more contents than inputs", lambda r: r.raw_input_contents.append(b"x"), "", ANSWERED),
    MessageAttack("an id of a megabyte", _set("id", "a" * 10**6), "", ANSWERED),
]

CALLS = [
    CallAttack("bytes that are no message", f"{_SERVICE}/ModelInfer", lambda: b"\xff" * 50, "INTERNAL", "parse"),
    CallAttack("an empty message", f"{_SERVICE}/ModelInfer", lambda: b"", "NOT_FOUND", "is not found"),
    CallAttack("a method nobody has", f"{_SERVICE}/ModelSteal", lambda: b"", "UNIMPLEMENTED"),
    CallAttack("a path in place of a method", "/../../etc/passwd", lambda: b"", "UNIMPLEMENTED"),
    CallAttack("one answer of a model that streams", f"{_SERVICE}/ModelInfer", good_message, "UNIMPLEMENTED"),
    CallAttack(
        "heads of 40 kB",
        f"{_SERVICE}/ModelInfer",
        good_message,
        "RESOURCE_EXHAUSTED",
        metadata=(("x", "y" * 40_000),),
    ),
    *(
        CallAttack(f"a closed door: {method}", f"{_SERVICE}/{method}", make, "UNAVAILABLE", _CLOSED, (key,))
        for key in [("triton-grpc-protocol-closed", "guessed")]
        for method, make in (
            (
                "SystemSharedMemoryRegister",
                lambda: triton.SystemSharedMemoryRegisterRequest(name="x", key="../../etc/passwd", byte_size=2**62),
            ),
            ("SystemSharedMemoryStatus", triton.SystemSharedMemoryStatusRequest),
            ("SystemSharedMemoryUnregister", triton.SystemSharedMemoryUnregisterRequest),
            ("CudaSharedMemoryRegister", lambda: triton.CudaSharedMemoryRegisterRequest(name="x", raw_handle=b"x")),
            ("RepositoryIndex", triton.RepositoryIndexRequest),
            ("RepositoryModelLoad", lambda: triton.RepositoryModelLoadRequest(model_name="../../tmp")),
            ("RepositoryModelUnload", lambda: triton.RepositoryModelUnloadRequest(model_name="ensemble")),
            ("TraceSetting", triton.TraceSettingRequest),
            ("LogSettings", triton.LogSettingsRequest),
        )
    ),
]
