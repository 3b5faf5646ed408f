"""Where an answer stops for one of its client's words.

The decoder looks for tokens, and a word has other tokens in the middle of a text than alone. Here the text is searched:
what could be the beginning of a word is held back until it is one or cannot become one, so that no part of one is ever
sent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["StopFinder"]


class StopFinder:
    """Takes an answer's text piece by piece."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(words)
        self._longest = max(map(len, words), default=0)
        self._pattern = re.compile("|".join(map(re.escape, words))) if words else None
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """What may be sent now, and whether the answer stops after it."""
        if self._pattern is None:
            return text, False
        text = self._held + text
        found = self._pattern.search(text)
        if found:
            self._held = ""
            return text[: found.start()], True
        keep = next(
            size
            for size in range(min(len(text), self._longest - 1), -1, -1)
            if not size or any(word.startswith(text[-size:]) for word in self._words)
        )
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def rest(self) -> str:
        """What was held back, at the answer's end."""
        held, self._held = self._held, ""
        return held
