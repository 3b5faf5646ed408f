"""An answer: its chunks as they arrive, and the whole of it."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nvlm_trt.errors import ServerError

__all__ = ["FACTS", "Answer", "AnswerStream", "Chunk", "PromptFacts", "log_probs_of"]

FACTS = ("input_lengths", "image_sizes", "tile_grids", "prompt_table_extra_ids")
"""The outputs of ``preprocessing`` that tell of a prompt without its tiles."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One response: the text it completes, the tokens it counts and, where they were asked for, their ``log_probs``."""

    text: str
    input_tokens: int
    output_tokens: int
    log_probs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    input_tokens: int
    output_tokens: int
    time_to_first_token_s: float
    total_s: float
    log_probs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptFacts:
    """What a question costs before it is asked.

    ``image_sizes`` are (width, height) in pixels and ``tile_grids`` (columns, rows), one per picture. ``image_tokens``
    of the ``input_tokens`` stand for tiles.
    """

    input_tokens: int
    image_sizes: tuple[tuple[int, int], ...]
    tile_grids: tuple[tuple[int, int], ...]
    image_tokens: int

    @classmethod
    def from_outputs(cls, outputs: Mapping[str, Sequence[int]]) -> PromptFacts:
        """``outputs`` are ``FACTS``, flat. Raises ``KeyError``, ``ValueError``, ``IndexError`` for others."""
        return cls(
            input_tokens=outputs["input_lengths"][0],
            image_sizes=_pairs(outputs["image_sizes"]),
            tile_grids=_pairs(outputs["tile_grids"]),
            # A picture's content where one of its tokens stands, 0 at text.
            image_tokens=sum(content != 0 for content in outputs["prompt_table_extra_ids"]),
        )


def log_probs_of(so_far: Sequence[float], output_tokens: int) -> tuple[float, ...]:
    """Those of a response's own ``output_tokens``: the decoder sends them for all tokens ``so_far``, every time."""
    return tuple(so_far[max(0, len(so_far) - output_tokens) :])


class AnswerStream:
    """Iterate over the chunks of one answer. ``close`` it to leave early; the server then stops working on it."""

    def __init__(self, chunks: Generator[Chunk, None, None], request_id: str) -> None:
        self.request_id = request_id
        self._chunks = chunks
        self._received: list[Chunk] = []
        self._started_s = time.monotonic()
        self._first_s: float | None = None
        self._last_s = self._started_s

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        chunk = next(self._chunks)
        self._last_s = time.monotonic()
        if self._first_s is None and chunk.output_tokens:
            self._first_s = self._last_s
        self._received.append(chunk)
        return chunk

    def finish(self) -> Answer:
        """Wait for the end and return the whole answer, chunks already taken included."""
        for _ in self:
            pass
        if not self._received:
            raise ServerError("E-SERVER-EMPTY", "The server ended its answer before it began.", "Ask again.")
        return Answer(
            text="".join(chunk.text for chunk in self._received),
            input_tokens=self._received[0].input_tokens,
            output_tokens=sum(chunk.output_tokens for chunk in self._received),
            time_to_first_token_s=(self._first_s or self._last_s) - self._started_s,
            total_s=self._last_s - self._started_s,
            log_probs=tuple(log_prob for chunk in self._received for log_prob in chunk.log_probs),
        )

    def close(self) -> None:
        self._chunks.close()

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pairs(flat: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple(zip(flat[::2], flat[1::2], strict=True))
