"""What a soak asks: a seeded mixture of texts and pictures, greedy and sampled, streamed and whole.

Each question has one right answer, the one it gets alone: sampled ones carry their seed. Where ``log_probs`` are asked
for they are part of the answer, one for each token in its order, so two tokens that change places are seen even where
the text is the same.
"""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["Answer", "Question", "draw_questions"]

_WORDS = (
    "what",
    "where",
    "which",
    "red",
    "green",
    "blue",
    "number",
    "letter",
    "sign",
    "table",
    "water",
    "light",
    "left",
)
_SIZES = ((336, 224), (448, 448), (640, 480), (900, 500), (500, 900), (1024, 700))
_TOKENS = (8, 16, 32, 64)


@dataclass(slots=True)
class Answer:
    """As far as it has come."""

    text: str = ""
    log_probs: list[float] = field(default_factory=list)
    tokens: int = 0

    def key(self) -> tuple[str, tuple[float, ...], int]:
        """All of it that must not depend on the load."""
        return self.text, tuple(self.log_probs), self.tokens


@dataclass(frozen=True)
class Question:
    number: int
    text: str
    max_tokens: int
    picture: bytes | None
    sampled: bool
    log_probs: bool
    stream: bool

    @cached_property
    def values(self) -> dict[str, Any]:
        """The ensemble's inputs."""
        return {
            "text_input": self.text,
            "max_tokens": self.max_tokens,
            "stream": self.stream or self.log_probs,  # as the gateway asks
            **({"image_url_input": [self._uri]} if self.picture else {}),
            **({"temperature": 0.9, "top_p": 0.95, "top_k": 0, "seed": self.number} if self.sampled else {}),
            **({"return_log_probs": True} if self.log_probs else {}),
        }

    @cached_property
    def body(self) -> bytes:
        """Of a chat completion."""
        content: list[dict[str, Any]] = [{"type": "text", "text": self.text}]
        if self.picture:
            content.append({"type": "image_url", "image_url": {"url": self._uri}})
        return json.dumps(
            {
                "model": "nvlm-d",
                "messages": [{"role": "user", "content": content}],
                "max_tokens": self.max_tokens,
                **({"temperature": 0.9, "top_p": 0.95, "seed": self.number} if self.sampled else {}),
                **({"logprobs": True} if self.log_probs else {}),
                **({"stream": True, "stream_options": {"include_usage": True}} if self.stream else {}),
            }
        ).encode()

    @property
    def _uri(self) -> str:
        return f"data:image/jpeg;base64,{base64.b64encode(self.picture or b'').decode()}"


def draw_questions(seed: int, texts: int, pictures: int) -> Sequence[Question]:
    """``texts`` questions without a picture, then ``pictures`` with one, no two the same in any tile."""
    draw = random.Random(f"{seed}/questions")
    return [
        Question(
            number=number,
            text=" ".join(draw.choices(_WORDS, k=draw.randint(3, 40))),
            max_tokens=draw.choice(_TOKENS),
            picture=_paint(draw) if number >= texts else None,
            sampled=draw.random() < 0.5,
            log_probs=draw.random() < 0.5,
            stream=draw.random() < 0.8,
        )
        for number in range(texts + pictures)
    ]


def _paint(draw: random.Random) -> bytes:
    """Coloured cells of eight pixels, JPEG's own."""
    width, height = draw.choice(_SIZES)
    cells = np.random.default_rng(draw.getrandbits(64)).integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(cells.repeat(8, 0)[:height].repeat(8, 1)[:, :width]).save(file, "JPEG", quality=85)
    return file.getvalue()
