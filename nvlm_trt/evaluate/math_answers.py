"""MathVista's free-form answers: equal after normalisation and truncation to two decimals.

The reference truncates ("0.999" is "0.99"), and fails on an empty answer; here that one is wrong. Strict rounds, keeps
signs, and compares numbers as numbers.
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal

from nvlm_trt.evaluate.vqa_text import normalise

__all__ = ["math_match"]

_DECIMAL = re.compile(r"\d+\.\d+")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_SAID = re.compile(r"answer is (-*\d+\.*\d*)")
_LETTER = re.compile(r"[a-zA-Z]")
_TWO_PLACES = Decimal("0.01")


def math_match(answer: str, truth: str, *, strict: bool = False) -> float:
    given = _said(_short(normalise(answer, strict=strict), strict))
    return float(
        bool(given) and _number(given, strict) == _number(_short(normalise(truth, strict=strict), strict), strict)
    )


def _short(text: str, strict: bool) -> str:
    if not strict and _DECIMAL.fullmatch(text):
        whole, _, places = text.partition(".")
        text = whole if not places.strip("0") else f"{whole}.{places[:2]}"
    return text.replace("%", "").removesuffix(".")


def _said(text: str) -> str:
    if _LETTER.search(text) and "e+" not in text:
        found = _SAID.search(text)
        return found[1] if found else text
    return text


def _number(text: str, strict: bool) -> str | Decimal:
    if strict and len(text) < 30 and _NUMBER.fullmatch(text):
        return Decimal(text).quantize(_TWO_PLACES, ROUND_HALF_UP)
    return text
