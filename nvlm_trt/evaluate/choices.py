"""Which letter an answer to a multiple-choice question means, by the rule of the MMMU benchmark.

"(B)" or "B)" anywhere; else a "B" between blanks; else, in answers of more than five words, the text of an option. Of
several, the one that begins last counts. The reference looks for the last place of "(B)" alone even if "B)" was found,
and of two that have none it takes the first; strict looks for what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

__all__ = ["find_choice", "options_by_letter"]

_ENDS = ",.!?;:'"
_FEW_WORDS = 5


def options_by_letter(options: Sequence[str]) -> dict[str, str]:
    return {chr(ord("A") + number): option for number, option in enumerate(options)}


def find_choice(answer: str, options: Mapping[str, str], *, strict: bool = False) -> str | None:
    """The letter, or None if there is none."""
    for mark in _ENDS:
        answer = answer.strip(mark)
    answer = f" {answer} "
    bracketed = "{})" if strict else "({})"
    found = [letter for letter in options if f"{letter})" in answer]
    if found:
        return _last(found, lambda letter: answer.rfind(bracketed.format(letter)))
    found = [letter for letter in options if f" {letter} " in answer]
    if found:
        return _last(found, lambda letter: answer.rfind(f" {letter} "))
    if len(answer.split()) > _FEW_WORDS:
        lowered = answer.lower()
        found = [letter for letter, option in options.items() if option.lower() in lowered]
        if found:
            return _last(found, lambda letter: lowered.rfind(options[letter].lower()))
    return None


def _last(letters: Sequence[str], place: Callable[[str], int]) -> str:
    return max(letters, key=place)  # of equals the first, as the reference has it
