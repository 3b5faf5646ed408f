"""ANLS, the metric of DocVQA: one minus edit distance over the longer length, or 0 where that ratio is 0.5 or more."""

from __future__ import annotations

from collections.abc import Sequence

from nvlm_trt.evaluate.vqa_text import normalise

__all__ = ["anls", "edit_distance"]

_THRESHOLD = 0.5


def anls(answer: str, truths: Sequence[str], *, strict: bool = False) -> float:
    """The best over ``truths``. The release's script normalises first, as for VQA; strict, like the benchmark, does
    not.
    """
    if not strict:
        answer, truths = normalise(answer), [normalise(truth) for truth in truths]
    return max(_similarity(_plain(answer), _plain(truth)) for truth in truths)


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's: insertions, deletions and replacements, each of cost one."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (letter != other))
    return row[-1]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _similarity(a: str, b: str) -> float:
    longer = max(len(a), len(b))
    distance = edit_distance(a, b) / longer if longer else 0.0
    return 1 - distance if distance < _THRESHOLD else 0.0
