"""Which of a metric's readings to use: the reference's, accidents included, or the one its definition means."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

__all__ = ["NoAnswer", "Rules"]

NoAnswer = Literal["first", "random"]


@dataclass(frozen=True, slots=True)
class Rules:
    """``no_answer``: the choice a multiple-choice answer without a letter counts as; under ``strict`` it is wrong.

    "first" is Megatron-LM's later rule, "random" that of the MMMU repository. ``seed`` with a sample's id draws the
    same choice every time, whatever the order.
    """

    strict: bool = False
    no_answer: NoAnswer = "first"
    seed: int = 0

    def guess(self, choices: list[str], sample_id: object) -> str:
        """ "" under ``strict``, which equals no choice."""
        if self.strict or not choices:
            return ""
        if self.no_answer == "first":
            return choices[0]
        digest = hashlib.sha256(f"{self.seed}:{sample_id}".encode()).digest()
        return choices[int.from_bytes(digest[:8], "big") % len(choices)]
