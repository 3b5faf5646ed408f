"""Hostile parameters: values out of range, and names that promise what is not offered."""

from __future__ import annotations

import math
from typing import Any

from tests.attacks.attack import ANSWERED, Attack

__all__ = ["PARAMETERS"]


def _set(name: str, value: Any, tried: str, code: str) -> Attack:
    return Attack(f"{name}: {tried}", tried, lambda: {name: value}, code)


PARAMETERS = [
    _set("max_tokens", 0, "an answer of no tokens", "E-PARAM-RANGE"),
    _set("max_tokens", -1, "an endless answer", "E-PARAM-RANGE"),
    _set("max_tokens", 2**31, "a count that wraps to a negative one", "E-PARAM-RANGE"),
    _set("max_tokens", 2**31 - 1, "the largest count there is", "E-PROMPT-LENGTH"),
    _set("min_tokens", -1, "a negative minimum", "E-PARAM-RANGE"),
    _set("min_tokens", 9, "a minimum above the maximum", "E-PARAM-RANGE"),
    _set("temperature", math.nan, "a temperature that is no number", "E-PARAM-RANGE"),
    _set("temperature", math.inf, "an infinite temperature", "E-PARAM-RANGE"),
    _set("temperature", -1.0, "a temperature below zero", "E-PARAM-RANGE"),
    _set("temperature", 1e-30, "a temperature that overflows what it divides", ANSWERED),
    _set("top_p", 1.5, "more than all of the probability", "E-PARAM-RANGE"),
    _set("top_p", -0.5, "less than none", "E-PARAM-RANGE"),
    _set("top_p", math.nan, "no number", "E-PARAM-RANGE"),
    _set("top_k", -1, "a negative count", "E-PARAM-RANGE"),
    _set("top_k", 2**31 - 1, "more tokens than there are", ANSWERED),
    _set("repetition_penalty", 0.0, "a division by zero", "E-PARAM-RANGE"),
    _set("repetition_penalty", math.nan, "no number", "E-PARAM-RANGE"),
    _set("presence_penalty", -math.inf, "an infinite bonus", "E-PARAM-RANGE"),
    _set("frequency_penalty", 1e30, "a penalty that overflows", "E-PARAM-RANGE"),
    _set("seed", 2**64 - 1, "the largest seed", ANSWERED),
    _set("end_id", 2**31 - 1, "an end token the model does not have", "E-PARAM-RANGE"),
    _set("end_id", -2, "a negative end token", "E-PARAM-RANGE"),
    _set("pad_id", -1, "a negative pad token", "E-PARAM-RANGE"),
    _set("beam_width", 2, "beam search", "E-PARAM-UNSUPPORTED"),
    _set("length_penalty", 2.0, "a setting of beam search", "E-PARAM-UNSUPPORTED"),
    _set("num_return_sequences", 2, "several answers", "E-PARAM-UNSUPPORTED"),
    _set("decoder_text_input", "Yes,", "put words into the answer's mouth", "E-PARAM-UNSUPPORTED"),
    _set("exclude_input_in_output", False, "have the prompt echoed", "E-PARAM-UNSUPPORTED"),
    _set("return_context_logits", True, "have the logits", "E-PARAM-UNSUPPORTED"),
    _set("return_generation_logits", True, "have the logits", "E-PARAM-UNSUPPORTED"),
    _set("return_perf_metrics", True, "have timings", "E-PARAM-UNSUPPORTED"),
    _set("prompt_table_extra_id", 7, "claim another picture's cached keys and values", "E-PARAM-UNSUPPORTED"),
    _set("embedding_bias_words", ["yes"], "push the answer", "E-PARAM-UNSUPPORTED"),
    _set("stop_words", [f"word{n}" for n in range(1000)], "a thousand words to look for", "E-PARAM-WORDS"),
    _set("bad_words", ["x" * 10_000], "one word of 10 kB", "E-PARAM-WORDS"),
    _set("stop_words", ["fine", "\udcff"], "a word that is no UTF-8", "E-PROMPT-UTF8"),
    _set("stop_words", ["", "\0", "<|im_end|>"], "empty, NUL and control as words", ANSWERED),
]
