"""Parses text from untrusted files strictly, and shows it in an error without harm."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn

from nvlm_trt.errors import CheckpointError

__all__ = ["parse_object", "read_object", "shown"]

# The release's index has 150 KB; nothing that is read whole comes near this.
_MAX_FILE_BYTES = 64 * 2**20
_MAX_SHOWN = 120


def shown(value: object) -> str:
    """A value as it may stand in an error: printable ASCII and short. Nested things show only their kind."""
    numbers = isinstance(value, list) and all(isinstance(item, (int, float)) for item in value)
    if not (numbers or value is None or isinstance(value, (str, int, float))):
        return f"a JSON {'object' if isinstance(value, dict) else 'list'}"
    escaped = str(value).encode("ascii", "backslashreplace").decode("ascii")
    printable = "".join(char if char.isprintable() else "?" for char in escaped[: _MAX_SHOWN + 1])
    return printable if len(printable) <= _MAX_SHOWN else f"{printable[: _MAX_SHOWN - 3]}..."


def parse_object(raw: bytes) -> dict[str, Any]:
    """A JSON object; numbers are finite and no key comes twice. ``ValueError`` says in our words what is wrong."""
    doubled: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                doubled.append(key)
            found[key] = value
        return found

    try:
        data = json.loads(raw.decode(), object_pairs_hook=unique, parse_constant=_reject_constant)
    except (ValueError, RecursionError):  # RecursionError: brackets nested by the thousand
        raise ValueError("is not JSON") from None
    if doubled:
        raise ValueError(f"gives {shown(doubled[0])} twice")
    if not isinstance(data, dict):
        raise ValueError("is not a JSON object")
    return data


def read_object(path: Path, code: str) -> tuple[dict[str, Any], bytes]:
    """A JSON file's object and its bytes. Raises ``CheckpointError`` with ``code``."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > _MAX_FILE_BYTES:
                raise ValueError(f"has more than {_MAX_FILE_BYTES} bytes")
            raw = file.read()
        return parse_object(raw), raw
    except OSError:
        fault = "cannot be opened"
    except ValueError as error:
        fault = str(error)
    raise CheckpointError(code, f"{shown(path.name)} {fault}.", "Fetch the file again.")


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(name)
