"""OCRBench: is the text in the answer? Ignores case, takes line ends for blanks, drops blanks in HME100k's formulas."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["ocr_hits"]

_FORMULAS = "HME100k"


def ocr_hits(answer: str, truths: Sequence[str], dataset: str, *, strict: bool = False) -> float:
    """How many of ``truths`` the answer contains: the reference continues after a hit. Strict counts one at most."""
    plain = _formula if dataset == _FORMULAS else _words
    hits = sum(plain(truth) in plain(answer) for truth in truths)
    return float(min(hits, 1) if strict else hits)


def _words(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


def _formula(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")
