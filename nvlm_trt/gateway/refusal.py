"""Errors in the form that OpenAI's clients read: ``{"error": {"message", "type", "param", "code"}}`` and a status."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nvlm_trt.errors import CancelledError, NvlmError, OverloadedError, RequestError

__all__ = ["Refusal", "about", "error_body", "error_headers", "error_status", "no_such_model"]

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_RETRY_AFTER_S = 1


class Refusal(RequestError):
    """A refusal of the gateway's own: ``param`` is the part of the body it is about, ``status`` is given if it is not
    400."""

    def __init__(self, code: str, what: str, fix: str = "", *, param: str | None = None, status: int = 400) -> None:
        super().__init__(code, what, fix)
        self.param = param
        self.status = status


@contextmanager
def about(param: str) -> Iterator[None]:
    """Add to errors raised inside which parameter of the request they are about."""
    try:
        yield
    except Refusal:
        raise
    except RequestError as error:
        raise Refusal(error.code, error.what, error.fix, param=param) from None


def no_such_model(name: str) -> Refusal:
    """``name`` is the one there is."""
    what = "There is no model with that name here."
    return Refusal("E-DOOR-MODEL", what, f"Ask for {name!r}.", param="model", status=404)


def error_status(error: NvlmError) -> int:
    """Overload is 429 here, not 503, as at OpenAI. Two cases are 503: a server that is about to end, so that balancers
    ask another, and an answer ended by the server's side, instead of the client's 499.

    OpenAI's clients try again after both.
    """
    if isinstance(error, OverloadedError):
        return 503 if error.code == "E-BUSY-DRAINING" else 429
    if isinstance(error, CancelledError):
        return 503
    return error.status if isinstance(error, Refusal) else error.http_status


def error_body(error: NvlmError) -> dict[str, Any]:
    status = error_status(error)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    param = error.param if isinstance(error, Refusal) else None
    return {"error": {"message": str(error), "type": kind, "param": param, "code": error.code}}


def error_headers(error: NvlmError) -> list[tuple[bytes, bytes]]:
    headers = {401: [(b"www-authenticate", b"Bearer")], 429: [(b"retry-after", b"%d" % _RETRY_AFTER_S)]}
    return headers.get(error_status(error), [])
