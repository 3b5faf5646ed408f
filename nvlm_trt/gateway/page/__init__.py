"""A page at ``/`` that a person can ask from: a picture's tiles, what a question costs, the answer as it comes.

It is an ordinary client of the API, with no other rights. Its files are served as they lie here and need nothing else;
the policy they are sent with forbids everything that they do not do. Texts become text in it and nothing else: the
browser itself refuses to make markup of any (``require-trusted-types-for``).
"""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__ = ["page_routes"]

_FILES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "picture.js": "text/javascript; charset=utf-8",
}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    # A gateway of another version behind the same address brings its own page.
    "cache-control": "no-cache",
}


def page_routes(*, keys_needed: bool) -> list[Route]:
    """For ``/`` and ``/page/FILE``. ``keys_needed`` shows the field for an API key from the start."""
    return [_route(name, media_type, keys_needed) for name, media_type in _FILES.items()]


def _route(name: str, media_type: str, keys_needed: bool) -> Route:
    body = Path(__file__).with_name(name).read_bytes()
    if keys_needed:
        body = body.replace(b'data-keys="none"', b'data-keys="needed"')

    async def answer(request: Request) -> Response:
        return Response(body, media_type=media_type, headers=_HEADERS)

    return Route("/" if name == "index.html" else f"/page/{name}", answer, methods=["GET"])
