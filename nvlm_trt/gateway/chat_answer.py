"""The JSON of a chat completion, whole and in pieces."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Choice", "Piece", "Shape", "sse"]


@dataclass(frozen=True, slots=True)
class Piece:
    """What a step added to one choice. ``log_probs`` has an entry for each token."""

    text: str
    input_tokens: int = 0
    output_tokens: int = 0
    log_probs: tuple[float, ...] = ()
    token_text: str = ""
    finish_reason: str | None = None


@dataclass(slots=True)
class Choice:
    """A choice as far as it has come."""

    texts: list[str] = field(default_factory=list)
    log_probs: list[dict[str, Any]] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0
    finish_reason: str | None = None

    def add(self, piece: Piece) -> None:
        self.texts.append(piece.text)
        self.log_probs += _log_prob_entries(piece)
        self.input_tokens = piece.input_tokens or self.input_tokens
        self.output_tokens += piece.output_tokens
        self.finish_reason = piece.finish_reason


@dataclass(frozen=True, slots=True)
class Shape:
    """What all pieces of one completion have in common."""

    id: str
    model: str
    log_probs: bool
    include_usage: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        return {
            **self._head("chat.completion"),
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": "".join(choice.texts), "refusal": None},
                    "logprobs": {"content": choice.log_probs, "refusal": None} if self.log_probs else None,
                    "finish_reason": choice.finish_reason,
                }
                for index, choice in enumerate(choices)
            ],
            "usage": _usage(choices),
        }

    def opening(self, index: int) -> dict[str, Any]:
        return self._chunk(index, {"role": "assistant", "content": ""})

    def chunk(self, index: int, piece: Piece) -> dict[str, Any]:
        return self._chunk(index, {"content": piece.text}, _log_prob_entries(piece))

    def closing(self, index: int, finish_reason: str | None) -> dict[str, Any]:
        return self._chunk(index, {}, (), finish_reason)

    def usage(self, choices: Sequence[Choice]) -> dict[str, Any]:
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": _usage(choices)}

    def _chunk(
        self, index: int, delta: Mapping[str, Any], entries: Sequence[Any] = (), reason: str | None = None
    ) -> dict[str, Any]:
        log_probs = {"content": list(entries), "refusal": None} if self.log_probs and entries else None
        choice = {"index": index, "delta": delta, "logprobs": log_probs, "finish_reason": reason}
        usage = {"usage": None} if self.include_usage else {}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **usage}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def sse(data: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _usage(choices: Sequence[Choice]) -> dict[str, int]:
    """The prompt counts once however many choices it has, as OpenAI counts it."""
    prompt, completion = choices[0].input_tokens, sum(choice.output_tokens for choice in choices)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _log_prob_entries(piece: Piece) -> list[dict[str, Any]]:
    """An entry for each token. The text of a response goes to its first token: where the decoder sends several tokens
    in one, nothing says which text is whose. A token that ends inside a character has none until the rest has come."""
    texts = [piece.token_text] + [""] * len(piece.log_probs)
    return [
        {"token": text, "logprob": log_prob, "bytes": list(text.encode()), "top_logprobs": []}
        for log_prob, text in zip(piece.log_probs, texts, strict=False)
    ]
