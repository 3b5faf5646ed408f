"""The letter and the point of an answer, by MMMU's rule."""

from __future__ import annotations

from collections import Counter

import pytest

from nvlm_trt.evaluate.choices import find_choice, options_by_letter
from nvlm_trt.evaluate.open_answers import contains_truth, points
from nvlm_trt.evaluate.rules import Rules

OPTIONS = options_by_letter(["red", "dark blue", "green"])


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("'B'", "B"),
        ("(B)", "B"),
        ("B) dark blue", "B"),
        ("The answer is B", "B"),
        ("(A) is wrong, so (C)", "C"),  # the last one
        ("(C) and not (A)", "A"),
        ("I say A but mean C", "C"),
        ("B (A)", "A"),  # brackets come first
        ("dark blue", None),  # too few words for the option's text
        ("I think it must be dark blue", "B"),
        ("It is not red but rather green", "C"),
        ("b", None),  # case counts
        ("", None),
        ("no idea at all about it, sorry", None),
    ],
)
def test_where_the_letter_is_found(answer, letter):
    assert find_choice(answer, OPTIONS) == letter
    assert find_choice(answer, OPTIONS, strict=True) == letter


def test_of_brackets_that_only_close_the_reference_takes_the_first():
    answer = "A) is wrong, C) it is"
    assert find_choice(answer, OPTIONS) == "A"
    assert find_choice(answer, OPTIONS, strict=True) == "C"


def test_an_answer_without_a_letter_by_each_rule():
    letters = list(OPTIONS)
    assert Rules().guess(letters, "x") == "A"
    assert Rules(strict=True).guess(letters, "x") == ""
    drawn = [Rules(no_answer="random", seed=1).guess(letters, number) for number in range(300)]
    assert drawn == [Rules(no_answer="random", seed=1).guess(letters, number) for number in range(300)]
    assert drawn != [Rules(no_answer="random", seed=2).guess(letters, number) for number in range(300)]
    assert all(70 < count < 130 for count in Counter(drawn).values())


def test_points_are_tails_after_key_phrases_and_numbers():
    assert points("So the final answer is 12.346.") == [12.35]
    # A number with commas and places is also read in two pieces.
    assert points("It is 1,234.567") == [1234.57, 1234.0, 234.57]
    assert points("x = 5") == [5.0]
    assert points("y = 4\nx = 5") == [5.0]  # "=" only in the last line
    assert points("y is 4\nx = 5") == [4.0, 5.0]
    assert points("Paris") == ["paris"]
    assert points("c") == [" c", "c "]  # a single letter is in nearly every text
    assert points("the result is :") == ["the result is :"]  # a trivial tail is none


@pytest.mark.parametrize(
    ("answer", "truths", "right"),
    [
        ("The capital is Paris", ["Paris"], True),
        ("The answer is 3.14159", ["3.14"], True),  # two decimals
        ("The answer is 3.15", ["3.14"], False),
        ("about 1,000 people", ["1000"], True),
        ("1.5e3", ["1500"], True),
        ("-2", ["2"], False),
        ("it is 7", ["seven", "7"], True),
        ("London", ["Paris"], False),
        ("the vector c", ["c"], True),
        ("ice", ["c"], False),
        ("", ["Paris"], False),
        ("It is 5. It is not 6", ["5"], False),  # sentences are not seen: only the tail after the last "is "
    ],
)
def test_open_answers(answer, truths, right):
    assert contains_truth(answer, truths) is right
