"""The options of a question, checked before it is sent, with the codes the server would use."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from nvlm_trt.embedded.request import Sampling
from nvlm_trt.serving.parameters import RequestFields, read_text

__all__ = ["AskOptions", "request_values"]

_SAMPLING = frozenset(field.name for field in fields(Sampling))


@dataclass(frozen=True, slots=True)
class AskOptions:
    """How to answer. None leaves a choice to the server, which is greedy by default.

    ``stream`` sends tokens as they come; without it the whole answer comes in one piece. Raises ``RequestError``
    E-PARAM-RANGE, E-PROMPT-UTF8.
    """

    max_tokens: int = 128
    min_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop_words: tuple[str, ...] = ()
    bad_words: tuple[str, ...] = ()
    stream: bool = True
    return_log_probs: bool = False

    def __post_init__(self) -> None:
        given = self.given()
        sampling = Sampling(**{name: value for name, value in given.items() if name in _SAMPLING})
        RequestFields("", self.max_tokens, min_tokens=self.min_tokens or 0, sampling=sampling)
        for word in (*self.stop_words, *self.bad_words):
            read_text("A stop or bad word", word)

    def given(self) -> dict[str, Any]:
        """What was chosen, under the names of the ensemble's inputs."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None and value != ()}


def request_values(question: str, images: Sequence[bytes], options: AskOptions) -> dict[str, Any]:
    """The ensemble's inputs by name; pictures as data URIs, whose media type the server ignores.

    Raises ``RequestError`` E-PROMPT-UTF8: Python's text may hold lone surrogates, which no protocol can carry.
    """
    uris = [f"data:image/any;base64,{base64.b64encode(image).decode()}" for image in images]
    return {
        "text_input": read_text("The question", question),
        **({"image_url_input": uris} if uris else {}),
        **options.given(),
    }
