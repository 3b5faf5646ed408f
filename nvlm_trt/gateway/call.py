"""One request in the gateway: its ids, what it holds, how far its choices have come.

A client may name its request in ``x-request-id``. Two clients may give the same name, so the server's side uses that
name with an id made here behind it: one stop ends one request, and one search finds all its lines.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nvlm_trt.gateway.body import Held
from nvlm_trt.gateway.chat_answer import Choice

if TYPE_CHECKING:
    from nvlm_trt.telemetry.traces import RequestSpan

__all__ = ["Call"]

_NAME = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class Call:
    """``id`` is unique; ``name`` is what the client reads back, its own if it sent a well-formed one, else the id."""

    def __init__(self, headers: Sequence[tuple[bytes, bytes]], held: Held) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.name = _given_name(headers) or self.id
        self.held = held
        self.begun_s = time.monotonic()
        self.num_pictures: int | None = None
        self.queue_s: float | None = None
        self.first_s: float | None = None
        self.error_code: str | None = None
        self.span: RequestSpan | None = None
        self._choices: dict[int, Choice] = {}

    @property
    def triton_id(self) -> str:
        return self.id if self.name == self.id else f"{self.name}.{self.id}"

    @property
    def trace(self) -> Mapping[str, str]:
        """What a part of the server needs to attach its spans to this request's."""
        return {} if self.span is None else self.span.headers

    def choice(self, number: int) -> Choice:
        return self._choices.setdefault(number, Choice())

    def ordered(self) -> list[Choice]:
        return [self._choices[number] for number in sorted(self._choices)]


def _given_name(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    given = [value for name, value in headers if name == b"x-request-id"]
    return given[0].decode() if len(given) == 1 and _NAME.fullmatch(given[0]) else None
