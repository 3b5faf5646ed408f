"""One record of a data set, read key by key; an invalid value is named by file, record and key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from nvlm_trt.errors import UsageError
from nvlm_trt.evaluate.failures import bad_data, missing_data

__all__ = ["Row", "read_json", "rows_of", "rows_of_lines", "rows_of_list", "rows_under_data"]


@dataclass(frozen=True, slots=True)
class Row:
    """``number`` counts from 1. Every method raises ``UsageError`` E-EVAL-DATA."""

    file: str
    number: int
    data: Mapping[str, Any]

    def has(self, key: str) -> bool:
        return self.data.get(key) is not None

    def text(self, key: str) -> str:
        """A text with something in it. Numbers are taken as they are written."""
        value = self.data.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, "is not a text")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of texts, at least one."""
        value = self.data.get(key)
        if not isinstance(value, list) or not value:
            raise self.error(key, "is not a list of texts")
        return [Row(self.file, self.number, {key: item}).text(key) for item in value]

    def text_or_texts(self, key: str) -> list[str]:
        return self.texts(key) if isinstance(self.data.get(key), list) else [self.text(key)]

    def id(self, key: str) -> int | str:
        value = self.data.get(key)
        if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
            raise self.error(key, "is neither a number nor a text")
        return value

    def picture(self, key: str) -> str:
        """A path below the pictures' folder: a data set does not choose what else of this machine is sent."""
        value = self.text(key)
        path = PurePosixPath(value)
        if path.is_absolute() or ".." in path.parts or "\0" in value or "\\" in value:
            raise self.error(key, "leads out of the data set's folder")
        return value

    def error(self, key: str, why: str) -> UsageError:
        return bad_data(self.file, self.number, f'"{key}" {why if key in self.data else "is missing"}')


def read_json(file: Path) -> Any:
    """Raises ``UsageError`` E-EVAL-DATA, E-EVAL-MISSING."""
    try:
        return json.loads(_text(file))
    except (ValueError, RecursionError):
        raise bad_data(file.name, 1, "the file is not JSON") from None


def rows_of(file: Path, items: Any, where: str) -> list[Row]:
    """``where`` says in words what ``items``, a part of the file, should have been a list of."""
    if not isinstance(items, Sequence) or isinstance(items, str) or not items:
        raise bad_data(file.name, 1, f"the file has no {where}")
    return [_row(file, number, item) for number, item in enumerate(items, 1)]


def rows_of_list(file: Path) -> list[Row]:
    """Of a file that is one JSON list."""
    return rows_of(file, read_json(file), "list of records")


def rows_under_data(file: Path) -> list[Row]:
    """Of a file that is one JSON object with the list under "data"."""
    content = read_json(file)
    return rows_of(file, content.get("data") if isinstance(content, dict) else None, 'list under "data"')


def rows_of_lines(file: Path) -> list[Row]:
    """Of a file with one JSON object a line; blank lines are passed over."""
    rows = []
    # Not splitlines(): JSON texts may hold separators that only it takes for ends of lines.
    for number, line in enumerate(_text(file).split("\n"), 1):
        if line.strip():
            try:
                item = json.loads(line)
            except (ValueError, RecursionError):
                raise bad_data(file.name, number, "the line is not JSON") from None
            rows.append(_row(file, number, item))
    if not rows:
        raise bad_data(file.name, 1, "the file is empty")
    return rows


def _row(file: Path, number: int, item: Any) -> Row:
    if not isinstance(item, dict):
        raise bad_data(file.name, number, "it is not a JSON object")
    return Row(file.name, number, item)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise missing_data(f"{file.name} cannot be read as UTF-8 text.", "Name a file of the data set.") from None
