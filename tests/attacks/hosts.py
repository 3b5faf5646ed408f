"""What a listed host may answer when it is asked for a picture, over TLS and in its own name."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["HOSTS", "PNG", "HostAttack", "picture_reply"]

PNG = b"\x89PNG\r\n\x1a\n" + bytes(1000)
"""A picture to whoever looks at its first bytes, which is all that fetching does."""


@dataclass(frozen=True)
class HostAttack:
    """``code`` is a pattern for the error's beginning: its code, and what must stand in its text."""

    tried: str
    sent: bytes = field(repr=False)
    code: str


def picture_reply(body: bytes = PNG, status: str = "200 OK", **headers: str) -> bytes:
    told = {"Content-Length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in told.items()), "", ""]
    return "\r\n".join(lines).encode() + body


_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_TWO_LENGTHS = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\nContent-Length: 6000\r\n\r\n"

HOSTS = [
    HostAttack("a redirect to this machine", picture_reply(status="302 Found", Location="https://127.0.0.1/"),
               "E-IMAGE-FETCH: .*redirect"),
    HostAttack("a redirect on the same host", picture_reply(status="301 Moved", Location="/b.png"),
               "E-IMAGE-FETCH: .*redirect"),
    HostAttack("a picture with status 404", picture_reply(status="404 Not Found"), "E-IMAGE-FETCH: .*not there"),
    HostAttack("a part of a picture", picture_reply(status="206 Partial Content"), "E-IMAGE-FETCH: .*not there"),
    HostAttack("what must be unpacked", picture_reply(Content_Encoding="gzip"), "E-IMAGE-FETCH: .*not there"),
    HostAttack("a page", picture_reply(b"<html>"), "E-IMAGE-FORMAT"),
    HostAttack("nothing", picture_reply(b""), "E-IMAGE-FORMAT: .*empty"),
    HostAttack("more bytes than are read", picture_reply(PNG + bytes(4000)), "E-IMAGE-BYTES: .*5,008 bytes"),
    HostAttack("more bytes than are read, in pieces", _CHUNKED + b"1388\r\n" + bytes(5000), "E-IMAGE-BYTES"),
    HostAttack("two lengths", _TWO_LENGTHS, "E-IMAGE-FETCH"),
    HostAttack("fewer bytes than were promised", picture_reply()[:-10], "E-IMAGE-FETCH"),
    HostAttack("a head of a megabyte", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10**6, "E-IMAGE-FETCH"),
    HostAttack("another protocol", b"SSH-2.0-OpenSSH\r\n", "E-IMAGE-FETCH"),
    HostAttack("an end without a word", b"", "E-IMAGE-FETCH"),
]  # fmt: skip
