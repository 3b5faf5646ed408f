"""Bodies for the HTTP door that are no request: most are Triton's own to refuse, in its own words."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from tests.attacks.attack import ANSWERED, REFUSED

__all__ = ["BODIES", "Body"]


@dataclass(frozen=True)
class Body:
    """``says`` is a stable part of Triton's own words, where they are Triton's."""

    tried: str
    body: bytes = field(repr=False)
    code: str
    says: str = ""
    path: str = "/v2/models/ensemble/generate"


def _with(extra: str) -> bytes:
    """A good request's JSON with one more member, verbatim."""
    return f'{{"text_input":"Hello","max_tokens":3,{extra}}}'.encode("utf-8", "surrogateescape")


_NO_VERSION = f"/v2/models/ensemble/versions/{'9' * 20}/generate"
_INFER = "/v2/models/preprocessing/infer"

BODIES = [
    Body("what is not JSON", b"not json", REFUSED, "failed to parse the request JSON buffer"),
    Body("nothing", b"", REFUSED, "failed to parse the request JSON buffer"),
    Body("JSON that ends early", b'{"text_input":"Hel', REFUSED, "failed to parse the request JSON buffer"),
    Body("a list", b"[]", REFUSED, "attempt to get members for non-object"),
    Body("null", b"null", REFUSED, "attempt to get members for non-object"),
    Body("no members", b"{}", REFUSED, "missing required input"),
    Body("no max_tokens", b'{"text_input":"a"}', REFUSED, "missing required input(s) ['max_tokens']"),
    Body("a member twice", _with('"max_tokens":4'), REFUSED, "already exists"),
    Body("a number for a text", b'{"text_input":5,"max_tokens":3}', REFUSED, "non-string as string"),
    Body("a text for a number", b'{"text_input":"a","max_tokens":"3"}', REFUSED, "non-signed-integer"),
    Body("half a token", b'{"text_input":"a","max_tokens":2.5}', REFUSED, "non-signed-integer"),
    Body("true for a number", b'{"text_input":"a","max_tokens":true}', REFUSED, "non-signed-integer"),
    Body("null for a number", b'{"text_input":"a","max_tokens":null}', REFUSED, "non-signed-integer"),
    Body("2^63", b'{"text_input":"a","max_tokens":9223372036854775808}', REFUSED, "non-signed-integer"),
    Body("a number of 400 digits", _with('"top_k":' + "9" * 400), REFUSED, "Number too big"),
    Body("a negative seed", _with('"seed":-1'), REFUSED, "non-unsigned-integer"),
    Body("two texts", b'{"text_input":["a","b"],"max_tokens":3}', REFUSED, "can not convert input"),
    Body("no text in a list", b'{"text_input":[],"max_tokens":3}', REFUSED, "can not convert input"),
    Body("an object for texts", _with('"stop_words":{"a":1}'), REFUSED, "Unable to parse JSON bytes array"),
    Body("numbers for pictures", _with('"image_url_input":[1,2]'), REFUSED, "Unable to parse JSON bytes array"),
    Body("an object nobody asked for", _with('"extra":{"a":[1]}'), REFUSED, "has invalid type"),
    Body("pixels", _with('"image_bytes_input":[0,0,0,0]'), REFUSED, "has invalid type"),
    Body("half a surrogate pair", b'{"text_input":"\\ud800","max_tokens":3}', REFUSED, "surrogate pair"),
    Body("an id that is a number", _with('"id":5'), REFUSED, "Unable to parse 'id'"),
    Body("an unknown model", _with('"top_k":1'), REFUSED, "is not found", "/v2/models/nobody/generate"),
    Body("a version of 20 digits", _with('"top_k":1'), REFUSED, "version", _NO_VERSION),
    Body("a path out of the repository", _with('"top_k":1'), REFUSED, "Not Found", "/v2/models/../../etc/generate"),
    Body("2^62 texts in a tensor", json.dumps({"inputs": [
        {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["a"]},
        {"name": "max_tokens", "datatype": "INT32", "shape": [1], "data": [1]},
        {"name": "stop_words", "datatype": "BYTES", "shape": [2**62], "data": []},
    ]}).encode(), REFUSED, "string elements", _INFER),
    Body("an input in memory nobody shares", json.dumps({"inputs": [
        {"name": "text_input", "datatype": "BYTES", "shape": [1],
         "parameters": {"shared_memory_region": "theirs", "shared_memory_byte_size": 5}},
        {"name": "max_tokens", "datatype": "INT32", "shape": [1], "data": [1]},
    ]}).encode(), REFUSED, "Unable to find shared memory region", _INFER),
    Body("a misspelt parameter", _with('"temperatur":1'), "E-PARAM-UNSUPPORTED"),
    Body("five thousand parameters", _with(",".join(f'"p{n}":1' for n in range(5000))), "E-PARAM-UNSUPPORTED"),
    Body("a parameter with a name of a megabyte", _with(f'"{"p" * 10**6}":1'), "E-PARAM-UNSUPPORTED"),
    Body("a parameter that is no UTF-8", _with('"extra":"\udcff"'), "E-PARAM-UTF8"),
    Body("an id that is no UTF-8", _with('"id":"\udcff"'), "E-PARAM-UTF8"),
    Body("infinity as a number", _with('"temperature":Infinity'), "E-PARAM-RANGE"),
    Body("a thousand nested lists", _with('"stop_words":' + "[" * 1000 + '"a"' + "]" * 1000), ANSWERED),
    Body("a megabyte of id", _with(f'"id":"{"a" * 10**6}"'), ANSWERED),
]  # fmt: skip
