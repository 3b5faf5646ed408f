"""Several turns in one request: the ensemble's ``conversation``, a JSON text beside ``image_url_input``.

    {"messages": [{"role": "system", "content": ["Be brief."]},
                  {"role": "user", "content": [{"max_tiles": 1}, "What is this?"]},
                  {"role": "assistant", "content": ["A rocket."]},
                  {"role": "user", "content": ["And this?", {}]}],
     "fit": true, "max_pixels": 20000000}

An object in ``content`` is the next picture of ``image_url_input``; each text and picture of a message gets a line of
its own, as in the release. Texts are only text: ``<image>`` in one is not a mark here. ``fit`` lets ``max_tokens``
shrink to what is left of the sequence, for clients that only give a maximum; ``max_pixels`` tightens the server's own
limit for each picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from nvlm_trt.errors import RequestError
from nvlm_trt.model.prompt import PICTURE, Turn
from nvlm_trt.serving.strict_json import read_strict_json

__all__ = ["Conversation", "read_conversation"]


@dataclass(frozen=True, slots=True)
class Conversation:
    """``max_tiles`` has an entry for each picture, None for the model's own limit; ``num_bytes`` counts all texts."""

    turns: tuple[Turn, ...]
    max_tiles: tuple[int | None, ...]
    fit: bool = False
    max_pixels: int | None = None

    @property
    def num_bytes(self) -> int:
        return sum(len(part.encode()) for turn in self.turns for part in turn.parts if isinstance(part, str))


def read_conversation(data: bytes) -> Conversation:
    """Raises ``RequestError``: E-PROMPT-CONVERSATION, E-PROMPT-EMPTY, E-PROMPT-UTF8, E-PARAM-JSON, E-PARAM-RANGE."""
    whole = read_strict_json(data, "The conversation")
    match whole:
        case {"messages": [_, *_] as messages, **rest}:
            pass
        case _:
            _odd("needs a list of messages")
    unknown = sorted(str(key) for key in rest.keys() - {"fit", "max_pixels"})
    if unknown:
        _odd(f"has an unknown key {unknown[0][:60]!r}")
    max_tiles: list[int | None] = []
    turns = tuple(_turn(number, message, max_tiles) for number, message in enumerate(messages))
    _check_order(turns)
    fit, max_pixels = rest.get("fit", False), rest.get("max_pixels")
    if not isinstance(fit, bool):
        _odd("has a fit that is neither true nor false")
    return Conversation(turns, tuple(max_tiles), fit, _positive("max_pixels", max_pixels))


def _turn(number: int, message: Any, max_tiles: list[int | None]) -> Turn:
    match message:
        case {"role": "system" | "user" | "assistant" as role, "content": [*content], **rest} if not rest:
            pass
        case _:
            _odd(f"has a message {number} that is not a role of system, user or assistant and a list of content")
    parts: list[Any] = []
    for item in content:
        match item:
            case str(text):
                parts += ["\n", text] if parts else [text]
            case {**options} if role == "user" and not options.keys() - {"max_tiles"}:
                max_tiles.append(_positive("max_tiles", options.get("max_tiles")))
                parts += ["\n", PICTURE] if parts else [PICTURE]
            case _:
                _odd(f"has in message {number} what is neither a text nor a user's picture")
    return Turn(role, tuple(parts) or ("",))


def _check_order(turns: tuple[Turn, ...]) -> None:
    if any(turn.role == "system" for turn in turns[1:]) or turns[-1].role != "user":
        _odd("must have its system message first and a user's message last")
    for turn in turns:
        text = "".join(part for part in turn.parts if isinstance(part, str))
        if turn.role == "user" and PICTURE not in turn.parts and not text.strip():
            raise RequestError("E-PROMPT-EMPTY", "A user's message is empty.", "Ask something.")
        try:
            text.encode()
        except UnicodeEncodeError:  # JSON can spell half a surrogate pair
            raise RequestError(
                "E-PROMPT-UTF8", "A message holds half a surrogate pair.", "Send it encoded as UTF-8."
            ) from None


def _positive(name: str, value: Any) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        raise RequestError("E-PARAM-RANGE", f"{name} is {str(value)[:60]}; a whole number from 1 up is wanted.")
    return value


def _odd(what: str) -> NoReturn:
    raise RequestError("E-PROMPT-CONVERSATION", f"The conversation {what}.", "See docs/gateway.md for its form.")
