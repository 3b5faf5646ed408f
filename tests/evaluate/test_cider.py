from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvlm_trt.evaluate.cider import cider_d, words

CAPTIONS = st.lists(
    st.sampled_from(["a", "dog", "cat", "runs", "red", "ball", "on", "grass"]), min_size=1, max_size=8
).map(" ".join)


def test_words_lose_punctuation_and_keep_clitics():
    assert words("A dog's ball, isn't it?") == ["a", "dog", "'s", "ball", "is", "n't", "it"]
    assert words("T-shirt: 1,000.") == ["t-shirt", "1,000"]


def test_a_perfect_caption_has_ten():
    # Four words in each of two pictures, none shared: every cosine is 1, no length differs.
    captions = ["one red dog runs", "two blue cats sleep"]
    assert cider_d(captions, [[caption] for caption in captions]) == pytest.approx([10, 10])


def test_an_example_by_hand():
    # Two pictures, so a run in one weighs log 2, in both 0. Candidate "red dog", references "red dog runs": one word
    # runs: (log2 red, log2 dog) against (.., .., log2 runs): 2 / (sqrt 2 sqrt 3). Pairs: 1 / sqrt 2. Longer: none.
    # The lengths differ by one pair.
    likeness = (2 / math.sqrt(6) + 1 / math.sqrt(2)) / 4 * math.exp(-1 / 72)
    found = cider_d(["red dog", "blue"], [["red dog runs"], ["blue cat"]])
    assert found[0] == pytest.approx(10 * likeness)


def test_a_repeated_word_is_cut_to_the_references_count():
    # (2 dog) against (1 dog): the product is cut to 1 * 1, the norm of the candidate is not: 1 / 2. It has a pair more.
    likeness = (1 / 2) / 4 * math.exp(-1 / 72)
    assert cider_d(["dog dog", "x"], [["dog"], ["cat"]])[0] == pytest.approx(10 * likeness)


def test_a_word_of_every_picture_weighs_nothing():
    assert cider_d(["dog", "dog"], [["dog"], ["dog"]]) == [0, 0]


def test_one_picture_alone_has_nothing_to_stand_out_from():
    assert cider_d(["a dog"], [["a dog"]]) == [0]


@given(st.lists(st.tuples(CAPTIONS, st.lists(CAPTIONS, min_size=1, max_size=3)), min_size=2, max_size=4), st.randoms())
def test_scores_are_bounded_and_do_not_see_order(corpus, random):
    before = cider_d([candidate for candidate, _ in corpus], [references for _, references in corpus])
    assert all(0 <= score <= 10 + 1e-9 for score in before)
    order = list(range(len(corpus)))
    random.shuffle(order)
    after = cider_d([corpus[at][0] for at in order], [corpus[at][1] for at in order])
    assert after == pytest.approx([before[at] for at in order])
