"""What is asked under load: kinds of requests, each with its share, its pictures and its lengths. A TOML file.

    distinct = 64                      # optional: this many different requests, asked again and again

    [[request]]
    share = 3                          # shares need not add up to anything
    pictures = ["1344x896", "448x448"] # one is drawn: a size, painted for the request, or a file beside the mix
    prompt_tokens = [16, 64]           # drawn from this range, ends included; or one number
    answer_tokens = 64

    [[request]]                        # without pictures: text alone
    prompt_tokens = 32
    answer_tokens = [16, 128]

Without ``distinct`` no two requests are alike, and no cache of the server helps. Everything is drawn from a seed with
``random.Random.random`` alone, whose sequence Python promises to keep.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pydantic

from nvlm_trt.load.failures import bad_mix
from nvlm_trt.load.form import Form, first_fault
from nvlm_trt.load.picture import check_picture
from nvlm_trt.load.request import LoadRequest, write_prompt

__all__ = ["Mix", "RequestKind", "draw_requests", "read_mix"]

Length = Annotated[int, pydantic.Field(ge=1, le=131072)]


class RequestKind(Form):
    share: float = pydantic.Field(default=1.0, gt=0)
    pictures: tuple[str, ...] = ()
    picture_count: int = pydantic.Field(default=1, ge=1, le=16)
    prompt_tokens: tuple[Length, Length]
    answer_tokens: tuple[Length, Length]

    @pydantic.field_validator("pictures", mode="before")
    @classmethod
    def _tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @pydantic.field_validator("prompt_tokens", "answer_tokens", mode="before")
    @classmethod
    def _range(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list | tuple) else (value, value)

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> RequestKind:
        for name in ("prompt_tokens", "answer_tokens"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} = [{low}, {high}] does not rise")
        if self.picture_count > 1 and not self.pictures:
            raise ValueError("picture_count has no effect without pictures")
        return self


class Mix(Form):
    """``folder`` is where files of pictures lie."""

    name: str
    folder: Path
    distinct: int | None = pydantic.Field(default=None, ge=1, le=100_000)
    request: tuple[RequestKind, ...] = pydantic.Field(min_length=1)

    @pydantic.field_validator("request", mode="before")
    @classmethod
    def _tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    def to_json(self) -> dict[str, Any]:
        """Without the folder, which says nothing about the load."""
        return self.model_dump(mode="json", exclude={"name", "folder"})


def read_mix(file: Path) -> Mix:
    """Raises ``UsageError`` E-LOAD-MIX, E-LOAD-PICTURE."""
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise bad_mix(file.name, "it cannot be opened") from None
    except (ValueError, RecursionError):
        raise bad_mix(file.name, "it is not TOML") from None
    try:
        mix = Mix.model_validate({**data, "name": file.stem, "folder": file.parent})
    except pydantic.ValidationError as error:
        raise bad_mix(file.name, first_fault(error)) from None
    for kind in mix.request:
        for picture in kind.pictures:
            check_picture(picture, mix.folder)
    return mix


def draw_requests(mix: Mix, seed: int, label: str) -> Iterator[LoadRequest]:
    """Without end. Of one seed, another ``label`` gives other requests; those of ``distinct`` are the same for all."""
    if mix.distinct is None:
        draw = random.Random(f"{seed}/{label}")
        while True:
            yield _draw_one(mix, draw)
    draw = random.Random(f"{seed}/distinct")
    pool = [_draw_one(mix, draw) for _ in range(mix.distinct)]
    draw = random.Random(f"{seed}/{label}")
    while True:
        yield pool[_below(len(pool), draw)]


def _draw_one(mix: Mix, draw: random.Random) -> LoadRequest:
    left = draw.random() * sum(kind.share for kind in mix.request)
    number = 0
    while number + 1 < len(mix.request) and left >= mix.request[number].share:
        left -= mix.request[number].share
        number += 1
    kind = mix.request[number]
    prompt_tokens, answer_tokens = (_between(ends, draw) for ends in (kind.prompt_tokens, kind.answer_tokens))
    count = kind.picture_count if kind.pictures else 0
    return LoadRequest(
        kind=number,
        prompt=write_prompt(prompt_tokens, draw),
        prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens,
        pictures=tuple(kind.pictures[_below(len(kind.pictures), draw)] for _ in range(count)),
        seed=_below(2**32, draw),
    )


def _between(ends: tuple[int, int], draw: random.Random) -> int:
    return ends[0] + _below(ends[1] - ends[0] + 1, draw)


def _below(count: int, draw: random.Random) -> int:
    return int(draw.random() * count)
