"""Hostile use of Triton's HTTP paths: models and versions, shared memory, the repository, heads that lie.

Names of models, versions and regions are looked up, never joined to a path; the doors that would let a stranger map the
server's memory, load models or fill its log are closed by the launcher with a key that it forgets.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["PATHS", "PathAttack"]

_CLOSED = "This API is restricted"


@dataclass(frozen=True)
class PathAttack:
    """``says`` is a stable part of Triton's words."""

    tried: str
    path: str
    status: int
    says: str
    body: bytes = field(default=b"", repr=False)
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)


def _infer(tried: str, status: int, says: str, size: int = 9, **headers: str) -> PathAttack:
    """A good text as binary data behind the JSON, five letters in nine bytes, of which the heads tell otherwise."""
    head = json.dumps(_good_json({"binary_data_size": size})).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    length = {"Inference-Header-Content-Length": str(len(head))}
    body = head + b"\5\0\0\0Hello"
    return PathAttack(tried, "/v2/models/preprocessing/infer", status, says, body, headers={**length, **named})


def _good_json(text_parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": "text_input", "datatype": "BYTES", "shape": [1], "parameters": dict(text_parameters)},
            {"name": "max_tokens", "datatype": "INT32", "shape": [1], "data": [1]},
        ],
        "outputs": [{"name": "input_ids"}],
    }


def _version(tried: str, version: str, status: int, says: str) -> PathAttack:
    return PathAttack(
        f"a version: {tried}", f"/v2/models/ensemble/versions/{version}/config", status, says, method="GET"
    )


def _model(tried: str, name: str, status: int, says: str) -> PathAttack:
    return PathAttack(f"a model: {tried}", f"/v2/models/{name}/config", status, says, method="GET")


def _region(tried: str, key: str, *, name: str = "mine", size: int = 64) -> PathAttack:
    body = json.dumps({"key": key, "offset": 0, "byte_size": size}).encode()
    path = f"/v2/systemsharedmemory/region/{name}/register"
    return PathAttack(f"shared memory: {tried}", path, 403, _CLOSED, body)


def _shut(tried: str, path: str, *, method: str = "POST", **body: Any) -> PathAttack:
    return PathAttack(tried, path, 403, _CLOSED, json.dumps(body).encode(), method)


PATHS = [
    _model("above the repository", "..", 404, "not found"),
    _model("above it, escaped", "%2e%2e", 404, "is not found"),
    _model("a path, escaped", "..%2f..%2fetc%2fpasswd", 404, "is not found"),
    _model("a name that ends at a NUL", "nobody%00ensemble", 404, "is not found"),
    _model("no name", "", 404, "Not Found"),
    # Triton reads a long line in pieces: by where they part, the answer is its model's or its router's.
    _model("a name of 8 kB", "a" * 8000, 404, "not found"),
    _version("negative", "-1", 404, "Not Found"),
    _version("none", "0", 404, "version 0 is not found"),
    _version("one that is not there", "2", 404, "version 2 is not found"),
    _version("beyond 64 bits", "9" * 20, 400, "should be an integral value"),
    _version("a path", "..%2f1", 404, "Not Found"),
    _version("a path behind a number", "1%2f..%2f1", 404, "Not Found"),
    _region("a path", "../../etc/passwd"),
    _region("a file", "/etc/passwd"),
    _region("no key", ""),
    _region("a key of 5 kB", "x" * 5000),
    _region("a name that is a path", "nobody", name="..%2f..%2fx"),
    _region("2^62 bytes", "nobody", size=2**62),
    _shut("shared memory: forget everybody's", "/v2/systemsharedmemory/unregister"),
    _shut("shared memory: a GPU's", "/v2/cudasharedmemory/region/mine/register", byte_size=64, device_id=0),
    _shut("the repository: load from elsewhere", "/v2/repository/models/..%2f..%2ftmp/load"),
    _shut(
        "the repository: load a program", "/v2/repository/models/ensemble/load", parameters={"file:1/model.py": "AA"}
    ),
    _shut("the repository: unload", "/v2/repository/models/tensorrt_llm/unload"),
    _shut("the repository: list", "/v2/repository/index"),
    _shut("the log: fill it", "/v2/logging", log_verbose_level=9),
    _shut("the log: write it elsewhere", "/v2/logging", log_file="/tmp/log"),
    _shut("a trace of what others ask", "/v2/trace/setting", trace_file="/tmp/trace", trace_level=["TENSORS"]),
    _infer("a tensor longer than what comes", 400, "expecting 999991 additional bytes", 10**6),
    _infer("a tensor of 2^63 bytes", 400, "additional bytes", 2**63 - 1),
    _infer("a tensor of negative length", 500, "non-unsigned-integer", -1),
    _infer("a tensor shorter than what comes", 400, "unexpected additional input data", 2),
    _infer("JSON longer than the body", 400, "should be in range", Inference_Header_Content_Length="99999999"),
    _infer("JSON of negative length", 400, "should be in range", Inference_Header_Content_Length="-1"),
    _infer("JSON of a length that is no number", 400, "must only have 1 input", Inference_Header_Content_Length="zz"),
    _infer("an encoding nobody knows", 501, "Unsupported compression type", Content_Encoding="br"),
    # What unpacking leaves of it is not always the same, and so are the words.
    _infer("gzip that is none", 400, "", Content_Encoding="gzip"),
    PathAttack(
        "a kilobyte that unpacks to a megabyte",
        "/v2/models/ensemble/generate",
        400,
        "only 'identity' is supported",
        gzip.compress(bytes(2**20)),
        headers={"Content-Encoding": "gzip"},
    ),
    PathAttack("another method", "/v2/models/ensemble/generate", 405, "Method Not Allowed", method="DELETE"),
]
