"""Converts between Python values and the messages of the KServe v2 gRPC protocol."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

__all__ = ["read_outputs", "write_request"]

_NUMPY_TYPES: Mapping[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT64": np.uint64,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP32": np.float32,
}
_FLOATS = frozenset({"temperature", "top_p", "repetition_penalty", "presence_penalty", "frequency_penalty"})


def write_request(
    model: str,
    request_id: str,
    values: Mapping[str, Any],
    *,
    batched: bool = False,
    outputs: Sequence[str] = (),
    parameters: Mapping[str, str] | None = None,
) -> Any:
    """A ``ModelInferRequest`` with one input for each value: a scalar is [1], a list of texts [n].

    ``batched`` adds a leading axis of one, for models with a batch axis. ``parameters`` are the request's own, which an
    ensemble passes on to each of its steps.
    """
    request = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    for name, value in values.items():
        items = list(value) if isinstance(value, list | tuple) else [value]
        datatype = _datatype(name, items)
        shape = [1, len(items)] if batched else [len(items)]
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(_pack(items, datatype))
    for name, text in (parameters or {}).items():
        request.parameters[name].string_param = text
    for name in outputs:
        request.outputs.add(name=name)
    return request


def read_outputs(response: Any) -> dict[str, list[Any]]:
    """All outputs of a ``ModelInferResponse`` by name, flat; texts as bytes. Raises ``ValueError`` for another form."""
    if len(response.outputs) != len(response.raw_output_contents):
        raise ValueError("outputs without contents")
    return {
        output.name: _unpack(contents, output.datatype)
        for output, contents in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def _datatype(name: str, items: Sequence[Any]) -> str:
    if name in _FLOATS:
        return "FP32"
    if name == "seed":
        return "UINT64"
    if isinstance(items[0], str):
        return "BYTES"
    return "BOOL" if isinstance(items[0], bool) else "INT32"


def _pack(items: Sequence[Any], datatype: str) -> bytes:
    if datatype != "BYTES":
        return np.array(items, _NUMPY_TYPES[datatype]).tobytes()
    encoded = [item.encode() for item in items]
    return b"".join(struct.pack("<I", len(item)) + item for item in encoded)


def _unpack(contents: bytes, datatype: str) -> list[Any]:
    if datatype != "BYTES":
        if datatype not in _NUMPY_TYPES:
            raise ValueError(f"unknown type {datatype}")
        values: list[Any] = np.frombuffer(contents, _NUMPY_TYPES[datatype]).tolist()
        return values
    items, begin = [], 0
    while begin + 4 <= len(contents):
        (length,) = struct.unpack_from("<I", contents, begin)
        items.append(contents[begin + 4 : begin + 4 + length])
        begin += 4 + length
    if begin != len(contents):
        raise ValueError("a text is cut short")
    return items
