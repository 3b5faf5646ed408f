"""Files of results as forms: every key is known, nothing is converted, and what is wrong is named by its key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import pydantic

__all__ = ["BadForm", "Form", "first_fault", "read_form"]

_F = TypeVar("_F", bound="Form")


class Form(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def dump(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


class BadForm(Exception):
    """Why a file cannot be read as a form, without its name."""


def read_form(form: type[_F], file: Path) -> _F:
    """Raises ``BadForm``."""
    try:
        return form.model_validate_json(file.read_bytes())
    except OSError:
        raise BadForm("it cannot be opened") from None
    except pydantic.ValidationError as error:
        raise BadForm(first_fault(error)) from None


def first_fault(error: pydantic.ValidationError) -> str:
    """The first key that is wrong, and how."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ")  # pydantic's words in front of our own
    return f"{where}: {what}" if where else what
