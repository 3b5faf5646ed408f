from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from nvlm_trt.gateway.stop_text import StopFinder

LETTERS = st.text("ab ", max_size=30)
WORDS = st.lists(st.text("ab ", min_size=1, max_size=4), max_size=3)


def pieces(text: str, cuts: list[int]) -> list[str]:
    at = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[begin:end] for begin, end in itertools.pairwise(at)]


@given(LETTERS, WORDS, st.lists(st.integers(0, 30)))
def test_however_a_text_is_cut_it_ends_before_its_first_stop_word(text, words, cuts):
    """First by where it is complete: that is when a reader of the whole stream would stop."""
    ends = [text.find(word) + len(word) for word in words if word in text]
    finder, sent = StopFinder(words), ""
    for piece in pieces(text, cuts):
        out, stopped = finder.push(piece)
        sent += out
        if stopped:
            assert ends
            assert text.startswith(sent)
            assert any(text[len(sent) :].startswith(word) for word in words)
            assert not any(word in sent for word in words)
            return
        assert not any(word in sent for word in words)
    assert not ends
    assert sent + finder.rest() == text


@given(LETTERS, WORDS)
def test_nothing_that_may_begin_a_word_is_sent(text, words):
    finder = StopFinder(words)
    out, stopped = finder.push(text)
    if not stopped:
        held = text[len(out) :]
        assert not held or any(word.startswith(held) for word in words)
        assert not any(word.startswith(text[at:]) for word in words for at in range(len(out)))


def test_without_words_everything_passes():
    assert StopFinder(()).push("text") == ("text", False)
