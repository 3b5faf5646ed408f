"""One request: when it was due and sent, when each piece of its answer came, and how it ended.

Times are ``time.monotonic`` seconds while it runs, and milliseconds after the run's start once it is a ``Record``,
which is what a line of the requests file holds.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from typing import Any

from nvlm_trt.load.request import Planned

__all__ = ["UNFINISHED", "Record", "UnderWay"]

UNFINISHED = "unfinished"  # in place of an error's code: the measurement was interrupted before the answer's end


@dataclass(slots=True)
class UnderWay:
    """A request in progress. A door calls ``piece`` for each piece of the answer and sets the token counts."""

    number: int
    planned: Planned
    due_s: float
    sent_s: float | None = None
    end_s: float = 0.0
    times_s: list[float] = field(default_factory=list)
    tokens: list[int | None] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    input_tokens: int | None = None
    output_tokens: int | None = None
    code: str | None = UNFINISHED

    def piece(self, text: str, tokens: int | None) -> None:
        """``tokens`` is None where the protocol does not say how many tokens a piece has."""
        self.times_s.append(time.monotonic())
        self.tokens.append(tokens)
        self.texts.append(text)

    @property
    def text(self) -> str:
        return "".join(self.texts)


@dataclass(frozen=True, slots=True)
class Record:
    """``pieces`` are (milliseconds, tokens). ``code`` is None for a whole answer, else an error's code."""

    number: int
    kind: int
    prompt_tokens: int
    answer_tokens: int
    pictures: tuple[str, ...]
    tiles: int | None
    due_ms: float
    sent_ms: float | None
    end_ms: float
    pieces: tuple[tuple[float, int | None], ...]
    input_tokens: int | None
    output_tokens: int | None
    code: str | None
    text_sha256: str

    @classmethod
    def of(cls, done: UnderWay, start_s: float, tiles: int | None) -> Record:
        def ms(at_s: float) -> float:
            return round((at_s - start_s) * 1e3, 3)

        request = done.planned.request
        return cls(
            number=done.number,
            kind=request.kind,
            prompt_tokens=request.prompt_tokens,
            answer_tokens=request.answer_tokens,
            pictures=request.pictures,
            tiles=tiles,
            due_ms=ms(done.due_s),
            sent_ms=None if done.sent_s is None else ms(done.sent_s),
            end_ms=ms(done.end_s),
            pieces=tuple((ms(at_s), tokens) for at_s, tokens in zip(done.times_s, done.tokens, strict=True)),
            input_tokens=done.input_tokens,
            output_tokens=done.output_tokens,
            code=done.code,
            text_sha256=hashlib.sha256(done.text.encode()).hexdigest(),
        )

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        """Raises ``TypeError`` or ``ValueError`` for what ``to_json`` did not make."""
        pieces = tuple((float(at_ms), tokens) for at_ms, tokens in data["pieces"])
        return cls(**{**data, "pictures": tuple(data["pictures"]), "pieces": pieces})

    @property
    def lag_ms(self) -> float | None:
        return None if self.sent_ms is None else self.sent_ms - self.due_ms

    @property
    def ttft_ms(self) -> float | None:
        return self.pieces[0][0] - self.due_ms if self.pieces else None

    @property
    def e2e_ms(self) -> float:
        return self.end_ms - self.due_ms

    @property
    def tbt_ms(self) -> float | None:
        """The mean over an answer's tokens after the first, as other tools count it."""
        tokens = self.output_tokens or 0
        return (self.pieces[-1][0] - self.pieces[0][0]) / (tokens - 1) if tokens > 1 and self.pieces else None

    @property
    def gaps_ms(self) -> list[float]:
        return [later[0] - earlier[0] for earlier, later in zip(self.pieces, self.pieces[1:], strict=False)]
