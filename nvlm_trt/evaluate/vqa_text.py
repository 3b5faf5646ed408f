"""The text normalisation of the VQA metric, which eight of the ten tasks use.

Source: the public VQA evaluation as OpenFlamingo carries it. Three of its behaviours are accidents, and a score that is
to be compared with published ones needs them all; ``strict`` corrects them:

* A mark is removed if it stands next to a blank *anywhere* in the text, or if the text has a number with a comma;
  otherwise it becomes a blank. So "-5" is "5". Strict keeps the sign of a number.
* At most 32 periods are removed: a flag was passed where ``re.sub`` takes a count. Strict has no limit.
* "A" is an article, so the option "A" becomes nothing. Strict keeps articles in a text that is nothing else.
"""

from __future__ import annotations

import re

from nvlm_trt.evaluate.contractions import CONTRACTIONS

__all__ = ["normalise"]

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32
_NEGATIVE = re.compile(r"(?<![\w.])-(?=\.?\d)")
_SIGN = "\N{MINUS SIGN}"  # no mark of the list: it survives
_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_COUNTED)}
_ARTICLES = frozenset(("a", "an", "the"))


def normalise(text: str, *, strict: bool = False) -> str:
    """Lower case, without most punctuation and articles, numbers up to ten as digits."""
    if strict:
        text = _NEGATIVE.sub(_SIGN, text)
    words = [_NUMBERS.get(word, word) for word in _without_marks(text, strict).lower().split()]
    kept = [word for word in words if word not in _ARTICLES]
    if strict and not kept:
        kept = words
    joined = " ".join(CONTRACTIONS.get(word, word) for word in kept)
    return joined.replace(_SIGN, "-") if strict else joined


def _without_marks(text: str, strict: bool) -> str:
    number = _COMMA_IN_NUMBER.search(text) is not None
    cleaned = text
    for mark in _MARKS:
        gone = number or f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if gone else " ")
    return _PERIOD.sub("", cleaned, count=0 if strict else _MAX_PERIODS)
