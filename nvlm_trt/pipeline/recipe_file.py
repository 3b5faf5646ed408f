"""Reads and writes recipes: one TOML file each, the shipped ones in ``build/recipes``."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pydantic
from pydantic_core import ErrorDetails

from nvlm_trt.errors import UsageError
from nvlm_trt.pipeline.recipe import RecipeDraft
from nvlm_trt.resources import resource_folder

__all__ = ["read_draft", "recipe_names", "write_draft"]

_TOLD = 3
_WORDS = {"missing": "the key is missing", "extra_forbidden": "there is no such key"}
_PLACE = re.compile(r"\(at (line \d+, column \d+|end of document)\)")


def recipe_names() -> list[str]:
    return sorted(file.stem for file in resource_folder("recipes").glob("*.toml"))


def read_draft(name: str) -> RecipeDraft:
    """A shipped recipe by name, or one of the user's by the path of a ``.toml`` file.

    Raises ``UsageError``: E-RECIPE-NAME when there is none, E-RECIPE-SYNTAX and E-RECIPE-KEY when it cannot be read.
    """
    own = name.endswith(".toml")
    file = Path(name) if own else resource_folder("recipes") / f"{name}.toml"
    if not file.is_file() or (not own and name not in recipe_names()):
        raise UsageError(
            "E-RECIPE-NAME",
            f"There is no recipe {name!r}.",
            f"Use one of {', '.join(recipe_names())}, or a .toml file.",
        )
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        found = _PLACE.search(str(error))
        where = f" at {found[1]}" if found else ""
        raise UsageError("E-RECIPE-SYNTAX", f"{file.name} is not TOML{where}.", "Correct it.") from None
    try:
        draft = RecipeDraft.model_validate(data)
    except pydantic.ValidationError as error:
        # A misspelt key is two errors, the key that is missing and the one that is none; they are told together.
        faults = "; ".join(dict.fromkeys(_told(one) for one in error.errors(include_url=False)[:_TOLD]))
        raise UsageError("E-RECIPE-KEY", f"{file.name}: {faults}.", "Correct it.") from None
    if draft.calibration.set is None:
        return draft
    place = str((file.parent / draft.calibration.set).resolve())
    return draft.model_copy(update={"calibration": draft.calibration.model_copy(update={"set": place})})


def write_draft(draft: RecipeDraft) -> str:
    """TOML that ``read_draft`` reads back as the same draft. Keys that have their default are left out."""
    data = draft.model_dump(exclude_defaults=True)
    sections = {key: value for key, value in data.items() if isinstance(value, dict)}
    lines = [f"{key} = {_toml(value)}" for key, value in data.items() if key not in sections]
    for name, section in sections.items():
        lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in section.items() if value is not None)]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    """JSON's texts, numbers, booleans and lists are valid TOML, except for DEL, which TOML requires escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _told(error: ErrorDetails) -> str:
    # Of a choice between a number and "auto" pydantic names the branch as well; that is no key of the file.
    known = [str(part) for part in error["loc"] if _is_key(str(part))]
    what = error["msg"].removeprefix("Value error, ")  # pydantic's words in front of our own
    return f"{'.'.join(known) or 'the recipe'}: {_WORDS.get(error['type'], what)}"


def _is_key(part: str) -> bool:
    return part.replace("_", "").isalnum() and part not in ("int", "str")
