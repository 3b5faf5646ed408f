"""Parses JSON from strangers: refuses what readers disagree about, and limits depth and size before parsing.

A recursive parser fails on text nested a hundred thousand levels deep (Triton 2.51's takes its server along), and 64
MiB of ``{},`` keep one busy for most of a minute and leave objects of 25 times their size. So depth and parts are
counted first, by a scan that skips strings. Of a key given twice, readers take the first, the last or both, so which
one a proxy checked would be a matter of luck. ``NaN`` and ``Infinity`` are not JSON.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from nvlm_trt.errors import RequestError

__all__ = ["read_strict_json"]

# Outside of strings: where one begins, a bracket, and what stands between two values.
_MARK = re.compile(r'["\[\]{},]')
# A string in one piece, possessively. One that does not end runs to the end of the text.
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_MAX_DEPTH = 64
_MAX_MARKS = 200_000


def read_strict_json(data: bytes, name: str = "The body") -> Any:
    """``name`` begins the sentence of an error.

    Raises ``RequestError``: E-PARAM-JSON (not JSON, too deep, too many parts, a key twice), E-PROMPT-UTF8 (not UTF-8).
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise RequestError("E-PROMPT-UTF8", f"{name} is not valid UTF-8.", "Send it encoded as UTF-8.") from None
    _check_shape(text, name)
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except _Odd as odd:
        raise _refusal(f"{name} {odd}.") from None
    except (ValueError, RecursionError):
        raise _refusal(f"{name} is not JSON.") from None


class _Odd(ValueError):
    """Its text continues after "The body"."""


def _check_shape(text: str, name: str) -> None:
    depth = marks = at = 0
    while mark := _MARK.search(text, at):
        marks += 1
        if marks > _MAX_MARKS:
            raise _refusal(f"{name} has more than {_MAX_MARKS:,} parts.")
        at = mark.end()
        match mark[0]:
            case '"':
                at = _string_end(text, mark.start())
            case "[" | "{":
                depth += 1
                if depth > _MAX_DEPTH:
                    raise _refusal(f"{name} is nested more than {_MAX_DEPTH} levels deep.")
            case "]" | "}":
                depth -= 1


def _string_end(text: str, begin: int) -> int:
    """A picture is a string of megabytes without an escape: looking for its end is 30 times as quick as a pattern."""
    quote = text.find('"', begin + 1)
    if quote > begin and text[quote - 1] != "\\":
        return quote + 1
    string = _STRING.match(text, begin)
    assert string
    return string.end()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Odd(f"has the key {twice[:60]!r} twice in one object")
    return members


def _no_number(constant: str) -> NoReturn:
    raise _Odd(f"holds {constant}, which is not JSON")


def _refusal(what: str) -> RequestError:
    return RequestError("E-PARAM-JSON", what, "Send one JSON object, each key once.")
