"""MMMU's open questions: what in a free answer may be its point, and whether the truth is in it.

From every line the shortest tail after a key phrase is taken ("so the result is 5" gives "5"); only in the last line
does "=" count as one too. If no line has one, the whole answer is used. Numbers in the tails are read as well. The
benchmark means to look at sentences, but it lower-cases first and then splits where a capital follows, so it sees
lines. Both readings keep that: nothing else was ever measured.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["contains_truth", "points"]

_PHRASES = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = frozenset(":,.!?;'")
_NUMBERS = tuple(
    re.compile(pattern)
    for pattern in (
        r"-?\b\d{1,3}(?:,\d{3})+\b",
        r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
        r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
    )
)

Point = str | float


def contains_truth(answer: str, truths: Sequence[str]) -> bool:
    """A text of the truth is part of a point, or a number equals one, both rounded to two decimals."""
    wanted = [point for truth in truths for point in _read(truth)]
    texts = [text for text in wanted if isinstance(text, str)]
    numbers = {number for number in wanted if isinstance(number, float)}
    return any(
        any(text in point for text in texts) if isinstance(point, str) else point in numbers for point in points(answer)
    )


def points(answer: str) -> list[Point]:
    """What the answer may be saying: lower-case texts, and numbers rounded to two decimals."""
    lowered = answer.strip().strip(".").lower()
    lines = lowered.split("\n")
    tails = [
        _tail(line, (*_PHRASES, "=") if line_number == len(lines) else _PHRASES)
        for line_number, line in enumerate(lines, 1)
    ]
    found = [tail for tail in tails if tail and tail not in _TRIVIAL] or [lowered]
    found += [number for tail in tuple(found) for pattern in _NUMBERS for number in pattern.findall(tail)]
    return list(dict.fromkeys(point for text in found for point in _read(text)))


def _tail(line: str, phrases: Sequence[str]) -> str:
    tails = [line.rpartition(phrase)[2].strip() for phrase in phrases if phrase in line]
    return min((tail for tail in tails if tail), key=len, default="")


def _read(text: str) -> list[Point]:
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lowered = text.lower()
    # A single letter is in nearly every text; with a blank it is in few.
    return [f" {lowered}", f"{lowered} "] if len(lowered) == 1 else [lowered]
