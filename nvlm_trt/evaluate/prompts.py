"""The words of the release's evaluation scripts. Picture marks go in front, each on its own line."""

from __future__ import annotations

from collections.abc import Mapping

from nvlm_trt.model.prompt import IMAGE_MARK

__all__ = ["LETTER_ONLY", "ONE_LINE_CAPTION", "SHORT_ANSWER", "about_picture", "with_options"]

SHORT_ANSWER = "Answer the question using a single word or phrase."
LETTER_ONLY = "Answer with the option's letter from the given choices directly."
ONE_LINE_CAPTION = "Provide a one-sentence caption for the provided image."


def about_picture(text: str, suffix: str = "") -> str:
    return f"{IMAGE_MARK}\n{text}" + (f"\n{suffix}" if suffix else "")


def with_options(question: str, options: Mapping[str, str]) -> str:
    """MathVista's and RealWorldQA's form: a line "A. ..." for each."""
    return "\n".join([question, *(f"{letter}. {option}" for letter, option in options.items()), LETTER_ONLY])
