"""What goes wrong between a client and a server, as errors of our tree.

A message from the server's models carries a code and becomes that error again. A message from Triton or a library has
none: it becomes one sentence of ours, with the original as a note that only a traceback shows.
"""

from __future__ import annotations

from nvlm_trt.errors import NvlmError, ServerError, from_message

__all__ = ["lost", "refused", "timed_out", "unreachable", "unreadable"]


def refused(message: str) -> NvlmError:
    """The error for a message in a server's answer."""
    known = from_message(message)
    if known is not None:
        return known
    if "is not healthy" in message:
        return _noted("E-SERVER-MODEL", "A model process of the server has died.", "Restart the server.", message)
    return _noted(
        "E-SERVER-REFUSED",
        "The server refused the request before its models saw it.",
        "Check the types, shapes and names of what was sent.",
        message,
    )


def unreachable(url: str, cause: object = "") -> NvlmError:
    return _noted("E-SERVER-UNREACHABLE", f"No server answers at {url}.", "Start it: nvlm-trt serve DIR", str(cause))


def timed_out(timeout_s: float) -> NvlmError:
    return ServerError(
        "E-SERVER-TIMEOUT",
        f"The server sent nothing for {timeout_s:g} s.",
        "It may be overloaded or stuck; raise the client's timeout or restart the server.",
    )


def lost(cause: object = "") -> NvlmError:
    return _noted("E-SERVER-LOST", "The connection broke before the answer's end.", "Ask again.", str(cause))


def unreadable(cause: object = "") -> NvlmError:
    return _noted(
        "E-SERVER-PROTOCOL", "What answered does not speak like this server.", "Check the address.", str(cause)
    )


def _noted(code: str, what: str, fix: str, note: str) -> ServerError:
    error = ServerError(code, what, fix)
    if note:
        error.add_note(note)
    return error
