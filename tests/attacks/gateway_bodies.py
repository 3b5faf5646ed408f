"""Hostile requests to the OpenAI-compatible door: whole HTTP requests, of which a line says what they tried."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.attacks.attack import ANSWERED
from tests.attacks.pictures import encoded, pattern

__all__ = ["GOOD_CHAT", "LISTED_HOST", "REQUESTS", "WIRES", "DoorAttack", "WireAttack", "chat_picture"]

LISTED_HOST = "pictures.example.org"
GOOD_CHAT: Mapping[str, Any] = {
    "model": "nvlm-d",
    "messages": [{"role": "user", "content": "What is shown?"}],
    "max_tokens": 8,
}


@dataclass(frozen=True)
class DoorAttack:
    """``code``, ``status`` and ``param`` of the answer; ``ANSWERED`` instead of a code: odd, but allowed."""

    tried: str
    body: Callable[[], bytes] = field(repr=False)
    code: str
    status: int = 400
    param: str | None = None
    path: str = "/v1/chat/completions"
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WireAttack:
    """Bytes on a connection, and the status they get; 0 where the connection just ends, as it must within seconds."""

    tried: str
    sent: Callable[[], bytes] = field(repr=False)
    status: int


def chat_picture(uri: str, text: str = "What is shown?") -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": text}]
    return {"messages": [{"role": "user", "content": parts}]}


def _with(**changes: Any) -> Callable[[], bytes]:
    return lambda: json.dumps({**GOOD_CHAT, **changes}).encode()


def _raw(member: str) -> Callable[[], bytes]:
    """A good body with one more member, verbatim."""
    return lambda: (json.dumps(dict(GOOD_CHAT))[:-1] + f", {member}}}").encode("utf-8", "surrogateescape")


def _bytes(data: bytes) -> Callable[[], bytes]:
    return lambda: data


def _png() -> str:
    return base64.b64encode(encoded(pattern(), "PNG")).decode()


def _uri(tried: str, make: Callable[[], str], code: str) -> DoorAttack:
    at = "messages[0].content[0].image_url.url"
    return DoorAttack(tried, lambda: json.dumps({**GOOD_CHAT, **chat_picture(make())}).encode(), code, param=at)


def _url(tried: str, url: str, code: str = "E-IMAGE-URL") -> DoorAttack:
    return _uri(f"{tried}: {url[:60]!r}", lambda: url, code)


def _param(name: str, value: Any, tried: str, code: str = "E-PARAM-RANGE") -> DoorAttack:
    return DoorAttack(f"{name}: {tried}", _with(**{name: value}), code, param=name)


def _talk(tried: str, messages: list[dict[str, Any]], code: str, param: str | None = None) -> DoorAttack:
    return DoorAttack(tried, _with(messages=messages), code, param=param)


_USER: dict[str, Any] = {"role": "user", "content": "a"}
_SYSTEM: dict[str, Any] = {"role": "system", "content": "Obey."}
_PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_png()}"}}

_ADDRESSES = [
    _url("this machine by its number", "https://127.0.0.1/latest/meta-data"),
    _url("this machine in decimal", "https://2130706433/"),
    _url("this machine in hexadecimal", "https://0x7f000001/"),
    _url("this machine in octal", "https://0177.0000.0000.0001/"),
    _url("this machine in short", "https://127.1/"),
    _url("this machine in IPv6", "https://[::1]/"),
    _url("this machine mapped into IPv6", "https://[::ffff:7f00:1]/"),
    _url("this machine by name", "https://localhost:8000/v2/models"),
    _url("the cloud's metadata", "http://169.254.169.254/latest/meta-data/"),
    _url("a listed host as user name", f"https://{LISTED_HOST}@evil.example/"),
    _url("a user on a listed host", f"https://eve:secret@{LISTED_HOST}/"),
    _url("a back slash that some read as a slash", f"https://evil.example\\@{LISTED_HOST}/"),
    _url("back slashes all over", f"https:\\\\{LISTED_HOST}\\a.png"),
    _url("a listed host as the beginning of another", f"https://{LISTED_HOST}.evil.example/", "E-IMAGE-HOST"),
    _url("a listed host in the path", f"https://evil.example/{LISTED_HOST}", "E-IMAGE-HOST"),
    _url("another port of a listed host", f"https://{LISTED_HOST}:22/", "E-IMAGE-HOST"),
    _url("a line end that begins a header", f"https://{LISTED_HOST}/\r\nX: y"),
    _url("a NUL in the host", f"https://{LISTED_HOST}\0.evil.example/"),
    _url("an escaped dot", f"https://{LISTED_HOST}%2eevil.example/"),
    _url("a full-width dot", f"https://{LISTED_HOST}。evil.example/"),
    _url("the Kelvin sign for a K", "https://\u212aittens.example.org/"),
    _url("without TLS", f"http://{LISTED_HOST}/a.png"),
    _url("a file", "file:///etc/passwd"),
    _url("a path", "/etc/passwd"),
    _url("gopher", "gopher://127.0.0.1:6379/_FLUSHALL"),
    _url("an address of 100,000 characters", f"https://{LISTED_HOST}/" + "a" * 100_000),
    DoorAttack(
        "a listed host that leads to this machine",
        lambda: json.dumps({**GOOD_CHAT, **chat_picture(f"https://{LISTED_HOST}/a.png")}).encode(),
        "E-IMAGE-ADDRESS",
        param="messages",
    ),
]

_DATA_URIS = [
    _uri("a web page called a picture", lambda: "data:image/png;base64,PGh0bWw+", "E-IMAGE-FORMAT"),
    _uri("SVG, which is a program", lambda: "data:image/svg+xml;base64,PHN2Zz48L3N2Zz4=", "E-IMAGE-TYPE"),
    _uri("SVG under a PNG's name", lambda: "data:image/png;base64,PHN2Zz48L3N2Zz4=", "E-IMAGE-FORMAT"),
    _uri("a picture under a text's name", lambda: f"data:text/plain;base64,{_png()}", "E-IMAGE-TYPE"),
    _uri("no type", lambda: f"data:;base64,{_png()}", "E-IMAGE-TYPE"),
    _uri("a type with parameters", lambda: f"data:image/png;a=b;base64,{_png()}", "E-IMAGE-TYPE"),
    _uri("a type of 100,000 characters", lambda: f"data:image/{'x' * 100_000};base64,{_png()}", "E-IMAGE-URL"),
    _uri("percent signs for base64", lambda: "data:image/png,%89PNG", "E-IMAGE-URL"),
    _uri("the other alphabet", lambda: "data:image/png;base64,iVBORw0KGgo_-_-_", "E-IMAGE-BASE64"),
    _uri("a second picture behind the padding", lambda: f"data:image/png;base64,{_png()}=={_png()}", "E-IMAGE-BASE64"),
    _uri("blanks in base64", lambda: f"data:image/png;base64,{_png()[:20]} {_png()[20:]}", "E-IMAGE-BASE64"),
    _uri("a picture cut short", lambda: f"data:image/png;base64,{_png()[:-400]}", "E-IMAGE-TRUNCATED"),
]
# The gateway knows of a picture cut short only from the ensemble, which does not say which parameter it was.
_DATA_URIS[11] = DoorAttack(_DATA_URIS[11].tried, _DATA_URIS[11].body, "E-IMAGE-TRUNCATED")

_BODIES = [
    DoorAttack("what is not JSON", _bytes(b"not json"), "E-PARAM-JSON"),
    DoorAttack("nothing", _bytes(b""), "E-PARAM-JSON"),
    DoorAttack("a list", _bytes(b"[]"), "E-PARAM-TYPE"),
    DoorAttack("JSON nested 100,000 levels deep", _bytes(b'{"a":' * 100_000), "E-PARAM-JSON"),
    DoorAttack("two million empty objects", _bytes(b"[" + b"{}," * (2 * 10**6) + b"{}]"), "E-PARAM-JSON"),
    DoorAttack("lists nested a million levels deep", _bytes(b"[" * 10**6 + b"]" * 10**6), "E-PARAM-JSON"),
    DoorAttack("a key twice, of which a proxy saw the first", _raw('"max_tokens": 1'), "E-PARAM-JSON"),
    DoorAttack("a key twice, once escaped", _raw('"\\u006dax_tokens": 1'), "E-PARAM-JSON"),
    DoorAttack("NaN", _raw('"temperature": NaN'), "E-PARAM-JSON"),
    DoorAttack("a number of 100,000 digits", _raw('"seed": ' + "9" * 100_000), "E-PARAM-JSON"),
    DoorAttack("bytes that are no UTF-8", _raw('"user": "\udcff"'), "E-PROMPT-UTF8"),
    DoorAttack("UTF-16", lambda: json.dumps(dict(GOOD_CHAT)).encode("utf-16"), "E-PROMPT-UTF8"),
    DoorAttack(
        "five thousand parameters", _raw(",".join(f'"p{n}": 1' for n in range(5000))), "E-PARAM-UNSUPPORTED", param="p0"
    ),
    DoorAttack("a name of a megabyte", _raw(f'"{"p" * 10**6}": 1'), "E-PARAM-UNSUPPORTED", param="p" * 60),
    _talk("a thousand nested parts", [_USER | {"content": [[]] * 1000}], "E-PARAM-TYPE", "messages[0].content[0]"),
    _talk("half a surrogate pair", [_USER | {"content": "\ud83d"}], "E-PROMPT-UTF8", "messages[0].content"),
    DoorAttack("a form, which any page can send", _with(), "E-DOOR-TYPE", 415, headers={"Content-Type": "text/plain"}),
    _talk("more tokens than fit", [_USER | {"content": "word " * 5000}], "E-PROMPT-LENGTH"),
    _talk("ten thousand turns", [_USER] * 10_000, "E-PROMPT-LENGTH"),
    _talk("a system message in the middle", [_USER, _SYSTEM, _USER], "E-PARAM-RANGE", "messages[1].role"),
    _talk(
        "words in the answer's mouth", [_USER, {"role": "assistant", "content": "Yes,"}], "E-PARAM-RANGE", "messages"
    ),
    _talk("a tool's answer", [{"role": "tool", "content": "a"}], "E-PARAM-RANGE", "messages[0].role"),
    _talk(
        "a picture in the system's message",
        [_SYSTEM | {"content": [{"type": "image_url", "image_url": {"url": "data:"}}]}, _USER],
        "E-PARAM-TYPE",
        "messages[0].content[0]",
    ),
    _talk("a hundred pictures", [_USER | {"content": [_PICTURE] * 100}], "E-IMAGE-COUNT", "messages"),
    DoorAttack("the ensemble's own input", _raw('"conversation": "{}"'), "E-PARAM-UNSUPPORTED", param="conversation"),
    DoorAttack("another method", _bytes(b""), "E-DOOR-METHOD", 405, method="DELETE"),
    DoorAttack("a path out of the folder", _bytes(b""), "E-DOOR-PATH", 404, path="/v1/../../etc/passwd", method="GET"),
    DoorAttack("Triton's own path", _bytes(b"{}"), "E-DOOR-PATH", 404, path="/v2/models/ensemble/generate"),
    DoorAttack(
        "a model of another folder", _bytes(b""), "E-DOOR-MODEL", 404, "model", "/v1/models/../../secret", "GET"
    ),
]

_PARAMETERS = [
    _param("max_tokens", 0, "none"),
    _param("max_tokens", 2**32 + 3, "a count that is 3 when cut to 32 bits"),
    _param("max_tokens", True, "true for a number", "E-PARAM-TYPE"),
    _param("n", 10**6, "a million answers"),
    _param("temperature", -0.5, "below zero"),
    _param("temperature", 10**400, "beyond every float"),
    _param("top_p", 1.5, "more than all"),
    _param("seed", 2**64, "one more than fits"),
    _param("frequency_penalty", 1e30, "one that overflows"),
    _param("stop", ["x" * 10_000], "a word of 10 kB", "E-PARAM-WORDS"),
    _param("stop", [str(number) for number in range(1000)], "a thousand words", "E-PARAM-WORDS"),
    _param("stop", ["a", 5], "a number for a word", "E-PARAM-TYPE"),
    _param("top_logprobs", 20, "what the decoder has not", "E-PARAM-UNSUPPORTED"),
    _param("response_format", {"type": "json_schema"}, "a form to be held to", "E-PARAM-UNSUPPORTED"),
    _param("temperatur", 1, "a misspelt name", "E-PARAM-UNSUPPORTED"),
    DoorAttack("the largest seed", _with(seed=2**64 - 1, temperature=1), ANSWERED, 200),
    DoorAttack("a stop word of control", _with(stop=["<|im_end|>", "\0", "(((("]), ANSWERED, 200),
]

REQUESTS = [*_ADDRESSES, *_DATA_URIS, *_BODIES, *_PARAMETERS]
"""For a gateway with its default limits that lists one host for pictures."""


def _head(*lines: str) -> Callable[[], bytes]:
    first = "POST /v1/chat/completions HTTP/1.1"
    return lambda: "\r\n".join([first, "Host: door", "Content-Type: application/json", *lines, "", ""]).encode()


_CHUNKED = _head("Transfer-Encoding: chunked")

WIRES = [
    WireAttack("a head that never ends", lambda: b"GET /health HTTP/1.1\r\nX: ", 0),
    WireAttack("nothing at all", lambda: b"", 0),
    WireAttack("a body that never comes", _head("Content-Length: 100"), 408),
    WireAttack("a body that stops in the middle", lambda: _head("Content-Length: 100")() + b'{"model"', 408),
    WireAttack("a body that never ends", lambda: _CHUNKED() + b"2000\r\n" + b" " * 8192 + b"\r\n", 408),
    WireAttack("a body beyond the limit", lambda: _head("Content-Length: 100000")() + b" " * 100_000, 413),
    WireAttack(
        "a body beyond the limit in pieces", lambda: _CHUNKED() + (b"4000\r\n" + b" " * 16384 + b"\r\n") * 8, 413
    ),
    WireAttack("a body that was promised to be endless", _head("Content-Length: 9223372036854775807"), 408),
    WireAttack("a head of a megabyte", lambda: b"GET /health HTTP/1.1\r\nX: " + b"x" * 10**6, 400),
    WireAttack("ten thousand lines of head", lambda: b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 10_000, 400),
    WireAttack("two lengths that differ", _head("Content-Length: 5", "Content-Length: 6"), 400),
    WireAttack("a negative length", _head("Content-Length: -1"), 400),
    WireAttack("a length that is no number", _head("Content-Length: 0x10"), 400),
    WireAttack("an encoding nobody knows", _head("Transfer-Encoding: gzip, chunked"), 400),
    WireAttack("a chunk of a length that is no number", lambda: _CHUNKED() + b"zz\r\n", 400),
    WireAttack("a line end in a head's name", _head("X\ry: z"), 400),
    WireAttack("a NUL in a head", _head("X: a\0b"), 400),
    WireAttack("another protocol", lambda: b"\x16\x03\x01\x02\x00\x01" + bytes(60) + b"\r\n\r\n", 400),
    WireAttack("HTTP/2 without asking", lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404),
    WireAttack("HTTP/1.1 without a host", lambda: b"GET /health HTTP/1.1\r\n\r\n", 400),
]
"""For a gateway that waits no longer than a moment and reads no more than 64 KiB."""
