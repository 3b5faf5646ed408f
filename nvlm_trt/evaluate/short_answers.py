"""Metrics of a short answer after normalisation: VQA accuracy, exact match, match within five percent."""

from __future__ import annotations

from collections.abc import Sequence

from nvlm_trt.evaluate.vqa_text import normalise

__all__ = ["exact_match", "relaxed_match", "vqa_accuracy"]

_ENOUGH = 3
_TOLERANCE = 0.05


def vqa_accuracy(answer: str, truths: Sequence[str], *, strict: bool = False) -> float:
    """min(1, people who gave this answer / 3).

    The published metric averages that over the subsets that leave one person out; the release's script does not. Strict
    does, and compares alone with a single truth.
    """
    given = normalise(answer, strict=strict)
    matches = sum(given == normalise(truth, strict=strict) for truth in truths)
    if not strict:
        return min(1.0, matches / _ENOUGH)
    if len(truths) == 1:
        return float(matches)
    without_one_who_matched = min(1.0, (matches - 1) / _ENOUGH) if matches else 0.0
    without_another = min(1.0, matches / _ENOUGH)
    return (matches * without_one_who_matched + (len(truths) - matches) * without_another) / len(truths)


def exact_match(answer: str, truth: str, *, strict: bool = False) -> float:
    """1 where both are the same after normalisation. Not strict, an empty answer matches the option "A"."""
    return float(normalise(answer, strict=strict) == normalise(truth, strict=strict))


def relaxed_match(answer: str, truth: str, *, strict: bool = False) -> float:
    """ChartQA: numbers match within 5 % of the truth, after a trailing % is stripped; everything else exactly.

    Not strict, signs are lost before; a truth below zero is met by its opposite.
    """
    given, wanted = (normalise(text, strict=strict).rstrip("%") for text in (answer, truth))
    try:
        number, target = float(given), float(wanted)
    except ValueError:
        return float(given == wanted)
    low, high = sorted((target * (1 - _TOLERANCE), target * (1 + _TOLERANCE)))
    return float(low <= number <= high)
