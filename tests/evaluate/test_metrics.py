"""Metrics against examples worked out by hand from their definitions, every trap of the reference among them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvlm_trt.evaluate.anls import anls, edit_distance
from nvlm_trt.evaluate.math_answers import math_match
from nvlm_trt.evaluate.ocr_hits import ocr_hits
from nvlm_trt.evaluate.short_answers import exact_match, relaxed_match, vqa_accuracy

SHORT = st.text("ab1 .", max_size=6)


@pytest.mark.parametrize(
    ("matches", "plain", "strict"),
    # Strict is the mean over those who are left out: 3 matches of 10 give (3 * 2/3 + 7 * 1) / 10.
    [(0, 0, 0), (1, 1 / 3, 0.3), (2, 2 / 3, 0.6), (3, 1, 0.9), (4, 1, 1), (10, 1, 1)],
)
def test_vqa_accuracy_counts_people(matches, plain, strict):
    truths = ["Cat"] * matches + ["dog"] * (10 - matches)
    assert vqa_accuracy("the cat.", truths) == pytest.approx(plain)
    assert vqa_accuracy("the cat.", truths, strict=True) == pytest.approx(strict)


def test_vqa_accuracy_with_one_truth():
    assert vqa_accuracy("cat", ["cat"]) == pytest.approx(1 / 3)
    assert vqa_accuracy("cat", ["cat"], strict=True) == 1


@given(SHORT, st.lists(SHORT, min_size=1, max_size=10), st.randoms())
def test_vqa_accuracy_is_a_share_and_does_not_see_order(answer, truths, random):
    shuffled = list(truths)
    random.shuffle(shuffled)
    for strict in (False, True):
        value = vqa_accuracy(answer, truths, strict=strict)
        assert 0 <= value <= 1
        assert vqa_accuracy(answer, shuffled, strict=strict) == value


@pytest.mark.parametrize(
    ("answer", "truth", "plain", "strict"),
    [
        ("B", "B", 1, 1),
        ("b.", "B", 1, 1),
        ("A", "A", 1, 1),
        ("", "A", 1, 0),  # "A" is an article: nothing equals it
        ("the", "A", 1, 0),
        ("B", "A", 0, 0),
        ("(A)", "A", 1, 1),
    ],
)
def test_an_exact_match_and_the_article_a(answer, truth, plain, strict):
    assert exact_match(answer, truth) == plain
    assert exact_match(answer, truth, strict=True) == strict


@pytest.mark.parametrize(
    ("answer", "truth", "plain", "strict"),
    [
        ("105", "100", 1, 1),
        ("105.1", "100", 0, 0),
        ("95", "100", 1, 1),
        ("94.9", "100", 0, 0),
        ("50%", "50", 1, 1),
        ("1,000", "1000", 1, 1),
        ("0", "0", 1, 1),
        ("0.01", "0", 0, 0),
        ("-5", "5", 1, 0),  # the sign is lost
        ("-5", "-5", 1, 1),
        ("-5.2", "-5", 1, 1),
        ("Yes", "yes", 1, 1),
        ("four", "4", 1, 1),
        ("12 cats", "12", 0, 0),
        ("nan", "nan", 0, 0),  # both parse as numbers, and none equals itself
    ],
)
def test_charts_are_read_within_five_percent(answer, truth, plain, strict):
    assert relaxed_match(answer, truth) == plain
    assert relaxed_match(answer, truth, strict=True) == strict


@pytest.mark.parametrize(
    ("answer", "truths", "plain", "strict"),
    [
        ("hello", ["hello"], 1, 1),
        ("helo", ["hello"], 0.8, 0.8),  # one of five letters
        ("abcd", ["abxy"], 0, 0),  # a half is too much
        ("abcde", ["abxye"], 0.6, 0.6),
        ("x", ["abc", "x"], 1, 1),
        ("Two  Words", ["two words"], 1, 1),
        ("a-b", ["b"], 1, 0),  # normalised, the letter a is an article; plain, two of three letters are too many
        ("", ["abc"], 0, 0),
    ],
)
def test_anls_with_and_without_normalisation(answer, truths, plain, strict):
    assert anls(answer, truths) == pytest.approx(plain)
    assert anls(answer, truths, strict=True) == pytest.approx(strict)


@given(st.text("abc", max_size=8), st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_the_edit_distance_is_a_distance(a, b, c):
    assert edit_distance(a, b) == edit_distance(b, a)
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))


def test_edit_distances_known_by_heart():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == 3


@pytest.mark.parametrize(
    ("answer", "truths", "dataset", "plain", "strict"),
    [
        ("The sign says STOP.", ["stop"], "IIIT5K", 1, 1),
        ("stop", ["go"], "IIIT5K", 0, 0),
        ("main\nstreet", ["Main Street"], "x", 1, 1),
        ("centre, center", ["centre", "center"], "x", 2, 1),  # every hit counts
        (r"\frac { 1 } { 2 }", [r"\frac{1}{2}"], "HME100k", 1, 1),
        ("X + y", ["x+y"], "HME100k", 0, 0),  # case counts in formulas
        ("x + y", ["x+y"], "x", 0, 0),  # and elsewhere blanks do
    ],
)
def test_ocr_counts_hits(answer, truths, dataset, plain, strict):
    assert ocr_hits(answer, truths, dataset) == plain
    assert ocr_hits(answer, truths, dataset, strict=True) == strict


@pytest.mark.parametrize(
    ("answer", "truth", "plain", "strict"),
    [
        ("2", "2", 1, 1),
        ("2.00", "2", 1, 1),
        ("0.999", "0.99", 1, 0),  # cut, not rounded
        ("0.999", "1.00", 0, 1),
        ("1.50", "1.5", 0, 1),  # texts are compared
        ("50%", "50", 1, 1),
        ("7.", "7", 1, 1),
        ("So the answer is 14 cm", "14", 1, 1),
        ("answer is 3.14159", "3.14", 0, 1),  # cut before it is found
        ("about 14", "14", 0, 0),
        ("-3", "3", 1, 0),  # the sign is lost
        ("three", "3", 1, 1),
        ("", "3", 0, 0),  # the reference raises
        ("Yes", "yes", 1, 1),
    ],
)
def test_mathematics_is_compared_after_a_cut(answer, truth, plain, strict):
    assert math_match(answer, truth) == plain
    assert math_match(answer, truth, strict=True) == strict


@given(SHORT, SHORT)
def test_what_equals_itself_is_right_and_all_is_nought_or_one(answer, truth):
    for strict in (False, True):
        assert exact_match(truth, truth, strict=strict) == 1
        assert anls(truth, [truth], strict=strict) == 1
        for value in (
            exact_match(answer, truth, strict=strict),
            relaxed_match(answer, truth, strict=strict),
            math_match(answer, truth, strict=strict),
        ):
            assert value in (0, 1)
        assert 0 <= anls(answer, [truth], strict=strict) <= 1
