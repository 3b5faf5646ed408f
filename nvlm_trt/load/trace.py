"""A trace: what arrived when, one JSON object a line.

    {"at_s": 0.35, "prompt_tokens": 40, "answer_tokens": 64, "pictures": ["1344x896"]}

``pictures`` may be left out. Lines need not be in order; the earliest is due at its ``at_s`` after the run's start.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Annotated

import pydantic

from nvlm_trt.errors import UsageError
from nvlm_trt.load.failures import bad_trace
from nvlm_trt.load.form import Form, first_fault
from nvlm_trt.load.picture import check_picture
from nvlm_trt.load.request import LoadRequest, Planned, write_prompt

__all__ = ["read_trace"]

_Length = Annotated[int, pydantic.Field(ge=1, le=131072)]


class _Line(Form):
    at_s: float = pydantic.Field(ge=0)
    prompt_tokens: _Length
    answer_tokens: _Length
    pictures: tuple[str, ...] = pydantic.Field(default=(), max_length=16)


def read_trace(file: Path, seed: int) -> tuple[Planned, ...]:
    """In order of time. Raises ``UsageError`` E-LOAD-TRACE, E-LOAD-PICTURE."""
    try:
        lines = file.read_bytes().splitlines()
    except OSError:
        raise bad_trace(file.name, 1, "the file cannot be opened") from None
    draw = random.Random(f"{seed}/trace")
    planned = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            one = _Line.model_validate_json(line)
            for name in one.pictures:
                check_picture(name, file.parent)
        except pydantic.ValidationError as error:
            raise bad_trace(file.name, number, first_fault(error)) from None
        except UsageError as error:
            raise bad_trace(file.name, number, error.what.rstrip(".")) from None
        prompt = write_prompt(one.prompt_tokens, draw)
        picture_seed = int(draw.random() * 2**32)
        request = LoadRequest(0, prompt, one.prompt_tokens, one.answer_tokens, one.pictures, picture_seed)
        planned.append(Planned(request, one.at_s))
    if not planned:
        raise bad_trace(file.name, 1, "there is no request in it")
    return tuple(sorted(planned, key=lambda one: one.due_s or 0.0))
