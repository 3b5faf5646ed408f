"""Addresses of pictures, read strictly: https, a listed name, and nothing a second reader could understand differently.

Readers of URLs disagree about user names, backslashes, control characters, percent signs in hosts, and numbers that
some resolvers take for addresses (``0x7f.1``, ``2130706433``). None of these ever occurs in a picture's address, so
none is accepted: a host is a name of at least two labels, the last of which is not a number.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from nvlm_trt.errors import RequestError, UsageError

__all__ = ["PictureUrl", "check_host", "read_picture_url"]

_MAX_CHARACTERS = 2048
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = rf"(?=.{{1,253}}(?::|\Z))(?:{_LABEL}\.)+(?=[a-z0-9-]*[a-z])(?!0x){_LABEL}"
_LISTED = re.compile(rf"({_HOST})(?::([1-9][0-9]{{0,4}}))?\Z")
# Of RFC 3986 what needs no escape, and escapes; no fragment, which is never sent.
_TARGET = (
    r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*(?:\?(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*)?"
)
_URL = re.compile(rf"https://([A-Za-z0-9.-]+)(?::([1-9][0-9]{{0,4}}))?({_TARGET})?\Z", re.IGNORECASE | re.ASCII)
_HTTPS = 443


@dataclass(frozen=True, slots=True)
class PictureUrl:
    """``host`` in lower case; ``target`` is what stands in the request line."""

    host: str
    port: int
    target: str


def check_host(listed: str) -> str:
    """A host of the allow list, ``NAME`` or ``NAME:PORT``, in lower case. Raises ``UsageError`` E-USAGE-HOST."""
    if not _LISTED.match(listed.lower()):
        raise UsageError(
            "E-USAGE-HOST", f"{listed[:60]!r} is not a host's full name.", "Name it as in pictures.example.org."
        )
    return listed.lower().removesuffix(f":{_HTTPS}")


def read_picture_url(url: str, hosts: Collection[str], name: str) -> PictureUrl:
    """``hosts`` are those that ``check_host`` gave. Raises ``RequestError``: E-IMAGE-URL, E-IMAGE-HOST."""
    if not hosts:
        raise RequestError(
            "E-IMAGE-URL",
            f"{name} is not a data URI. Pictures are not fetched from addresses or files: remote pictures are off.",
            "Send data:image/png;base64,... with the file's own bytes.",
        )
    # Not ASCII: without the flag, the Kelvin sign is a K to a pattern that ignores case.
    found = _URL.match(url) if len(url) <= _MAX_CHARACTERS else None
    host = found[1].lower() if found else ""
    if not found or not _LISTED.match(host):
        raise RequestError(
            "E-IMAGE-URL",
            f"{name} is neither a data URI nor a plain https address.",
            "An address begins with https and a full name: no user, no number, no back slash, no fragment, "
            f"at most {_MAX_CHARACTERS} characters.",
        )
    port = int(found[2] or _HTTPS)
    if (host if port == _HTTPS else f"{host}:{port}") not in hosts:
        raise RequestError(
            "E-IMAGE-HOST", f"{name} lies on a host that pictures are not fetched from.", "Send it as a data URI."
        )
    return PictureUrl(host, port, found[3] or "/")
