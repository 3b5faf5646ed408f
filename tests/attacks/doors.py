"""The server's doors as an attacker uses them: raw, without the client's checks."""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from nvlm_trt.client.failures import refused
from nvlm_trt.client.wire import read_outputs
from nvlm_trt.deploy.address import Address
from nvlm_trt.deploy.model_config import read_model_config
from nvlm_trt.resources import resource_folder

__all__ = ["Door", "GenerateDoor", "GenerateStreamDoor", "GrpcDoor", "Reply", "Tensor", "as_bytes", "picture_uri"]

TIMEOUT_S = 30.0
_NUMPY = {
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT64": np.uint64,
    "UINT8": np.uint8,
    "FP32": np.float32,
    "BOOL": bool,
}
_ids = (f"attack-{number}" for number in itertools.count())


@dataclass(frozen=True)
class Reply:
    """``error`` is the text a stranger sees, empty if there was an answer."""

    error: str = ""
    text: str = ""
    input_tokens: int = 0
    status: int = 0

    @property
    def code(self) -> str:
        """As our clients understand it: E-SERVER-REFUSED for what Triton says in its own words."""
        return refused(self.error).code if self.error else ""


class Door(Protocol):
    def send(self, values: Mapping[str, Any]) -> Reply:
        """Ask ``ensemble``. A text may hold any bytes: those that are no UTF-8 as surrogate escapes."""


@dataclass(frozen=True)
class Tensor:
    datatype: str
    shape: Sequence[int]
    data: bytes

    @classmethod
    def of(cls, datatype: str, values: Sequence[Any], shape: Sequence[int] | None = None) -> Tensor:
        if datatype == "BYTES":
            data = b"".join(struct.pack("<I", len(item)) + item for item in map(as_bytes, values))
        else:
            # A number that does not fit is cut, as by a careless client.
            cut = values if datatype in ("FP32", "BOOL") else [int(v) % 2 ** _bits(datatype) for v in values]
            unsigned = _NUMPY[datatype] if datatype in ("FP32", "BOOL") else f"<u{_bits(datatype) // 8}"
            data = np.array(cut, unsigned).tobytes()
        return cls(datatype, [len(values)] if shape is None else shape, data)


class GrpcDoor:
    def __init__(self, address: Address) -> None:
        unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(f"{address.host}:{address.grpc_port}", unlimited)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        config = read_model_config(resource_folder("triton_repo") / "ensemble" / "config.pbtxt")
        names = model_config_pb2.DataType.Name
        self._types = {tensor.name: names(tensor.data_type).removeprefix("TYPE_") for tensor in config.input}

    def send(self, values: Mapping[str, Any]) -> Reply:
        return self.send_tensors("ensemble", self.tensors({**values, "stream": True}), next(_ids))

    def tensors(self, values: Mapping[str, Any]) -> dict[str, Tensor]:
        typed = {name: self._types[name].replace("STRING", "BYTES") for name in values}
        return {
            name: Tensor.of(typed[name], value if isinstance(value, list) else [value])
            for name, value in values.items()
        }

    def send_tensors(self, model: str, tensors: Mapping[str, Tensor], request_id: str = "") -> Reply:
        request = service_pb2.ModelInferRequest(model_name=model, id=request_id)
        for name, tensor in tensors.items():
            request.inputs.add(name=name, datatype=tensor.datatype, shape=tensor.shape)
            request.raw_input_contents.append(tensor.data)
        return self.send_message(request)

    def send_message(self, request: Any) -> Reply:
        """The stream is read to its end: Triton 2.51 keeps the request of one that is given up when it has failed."""
        text, input_tokens, error = b"", 0, ""
        for response in self._stub.ModelStreamInfer(iter([request]), timeout=TIMEOUT_S):
            if response.error_message:
                error = error or response.error_message
                continue
            outputs = read_outputs(response.infer_response)
            text += b"".join(outputs.get("text_output", ()))
            input_tokens = outputs.get("num_input_tokens", [0])[0]
        return Reply(error=error) if error else Reply(text=text.decode(), input_tokens=input_tokens)

    def call(self, method: str, message: bytes, metadata: Sequence[tuple[str, str]] = ()) -> tuple[str, str]:
        """The status's name and the words of one call; OK and none if it was answered."""
        try:
            self._channel.unary_unary(method)(message, timeout=TIMEOUT_S, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        return "OK", ""

    def outputs(self, model: str, values: Mapping[str, Any], name: str) -> list[Any]:
        """One output of a model that answers once."""
        request = service_pb2.ModelInferRequest(model_name=model)
        for input_name, tensor in self.tensors(values).items():
            request.inputs.add(name=input_name, datatype=tensor.datatype, shape=tensor.shape)
            request.raw_input_contents.append(tensor.data)
        request.outputs.add(name=name)
        return read_outputs(self._stub.ModelInfer(request, timeout=TIMEOUT_S))[name]

    def close(self) -> None:
        self._channel.close()


class GenerateDoor:
    """POST /generate: JSON in, one JSON answer out."""

    path = "/v2/models/ensemble/generate"

    def __init__(self, address: Address) -> None:
        self._address = address

    def send(self, values: Mapping[str, Any]) -> Reply:
        return self.post(self.path, _json(values))

    def post(self, path: str, body: bytes) -> Reply:
        return self.knock("POST", path, body, {"Content-Type": "application/json"})

    def knock(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        connection = http.client.HTTPConnection(self._address.host, self._address.http_port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return _reply(response.status, response.read())
        finally:
            connection.close()


class GenerateStreamDoor(GenerateDoor):
    """POST /generate_stream: JSON in, server-sent events out."""

    path = "/v2/models/ensemble/generate_stream"

    def send(self, values: Mapping[str, Any]) -> Reply:
        return super().send({"id": next(_ids), **values, "stream": True})


def as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def picture_uri(data: bytes) -> str:
    return "data:image/any;base64," + base64.b64encode(data).decode()


def _json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _reply(status: int, body: bytes) -> Reply:
    text, input_tokens = "", 0
    for frame in _frames(body):
        if "error" in frame:
            return Reply(error=str(frame["error"]), status=status)
        text += str(frame["text_output"])
        input_tokens = int(frame["num_input_tokens"])
    return Reply(text=text, input_tokens=input_tokens, status=status)


def _frames(body: bytes) -> Iterator[dict[str, Any]]:
    lines = [line.removeprefix(b"data:") for line in body.split(b"\n") if line.strip()]
    return (json.loads(line) for line in lines)


def _bits(datatype: str) -> int:
    return int(datatype.lstrip("UINT"))
