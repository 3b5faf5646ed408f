"""Reads one of a model folder's JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nvlm_trt.errors import CheckpointError

__all__ = ["read_json_object"]


def read_json_object(path: Path, family: str) -> dict[str, Any]:
    """The object in ``path``. ``family`` ("CONFIG", "TOKENIZER") is part of the error codes.

    Raises ``CheckpointError``: E-{family}-MISSING, E-{family}-FORMAT.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(
            f"E-{family}-MISSING", f"The model folder has no {path.name}.", "Copy it from the release."
        ) from None
    except (OSError, UnicodeDecodeError):
        raise CheckpointError(
            f"E-{family}-FORMAT", f"{path.name} cannot be read as UTF-8 text.", "Copy it from the release again."
        ) from None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise CheckpointError(
            f"E-{family}-FORMAT", f"{path.name} does not hold one JSON object.", "Copy it from the release again."
        )
    return data
