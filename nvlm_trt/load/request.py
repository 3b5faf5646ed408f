"""One request of a load, before any protocol has seen it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from nvlm_trt.checkpoint.synthetic.words import WORDS

__all__ = ["LoadRequest", "Planned", "write_prompt"]

# One token each behind a blank, in Qwen2's vocabulary and in the synthetic ones.
_WORDS = tuple(word for word in WORDS if word.startswith(" "))


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """``pictures`` are sizes ("1344x896") or files, as the mix names them; sizes are painted from ``seed``.

    An answer has exactly ``answer_tokens``, so that two servers, or two precisions, do the same work.
    """

    kind: int
    prompt: str
    prompt_tokens: int
    answer_tokens: int
    pictures: tuple[str, ...] = ()
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Planned:
    """``due_s`` after the run's start, or None in a closed loop, where a client's turn comes when it comes."""

    request: LoadRequest
    due_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {"due_s": self.due_s, **self.request.to_json()}


def write_prompt(num_tokens: int, draw: random.Random) -> str:
    """Text of ``num_tokens`` words that Qwen2's tokenizer makes one token of each."""
    words: Iterable[str] = (_WORDS[int(draw.random() * len(_WORDS))] for _ in range(num_tokens))
    return "".join(words)
