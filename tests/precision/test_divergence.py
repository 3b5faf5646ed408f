from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvlm_trt.evaluate.bootstrap import mean_interval, ratio_interval
from nvlm_trt.precision.divergence import divergence, first_difference, log_softmax


def test_a_divergence_worked_by_hand() -> None:
    """(3/4, 1/4) against (1/2, 1/2): 3/4 log(3/2) + 1/4 log(1/2)."""
    reference, other = (np.log(np.array([odds], np.float32)) for odds in ((3, 1), (5, 5)))
    assert divergence(reference, other) == pytest.approx([0.75 * np.log(1.5) + 0.25 * np.log(0.5)], rel=1e-6)
    assert divergence(other, reference) == pytest.approx([0.5 * np.log(2 / 3) + 0.5 * np.log(2)], rel=1e-6)


def test_shifts_do_not_count_and_no_logit_is_too_large() -> None:
    logits = np.array([[1e4, -1e4, 0], [-3e38, 0, 3e38]], np.float32)
    assert divergence(logits, logits).tolist() == [0, 0]
    moved = divergence(logits[:1] / 1000, logits[:1] / 1000 + 50)
    assert moved == pytest.approx([0], abs=1e-6)
    assert np.exp(log_softmax(logits)).sum(axis=1) == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("one", "other", "place"),
    [([], [], None), ([1, 2], [1, 2], None), ([1, 2], [1, 3], 1), ([1], [1, 2], 1), ([], [5], 0), ([4, 2], [5], 0)],
)
def test_where_answers_part(one: list[int], other: list[int], place: int | None) -> None:
    assert first_difference(one, other) == first_difference(other, one) == place


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_with_one_token_a_question_a_ratio_is_a_mean(values: list[float]) -> None:
    ratio = ratio_interval(values, [1] * len(values), resamples=200)
    mean = mean_interval(values, resamples=200)
    assert (ratio.low, ratio.high) == pytest.approx((mean.low, mean.high))


def test_tokens_that_go_wrong_together_widen_the_interval() -> None:
    """Forty answers of ten tokens, every fourth wholly wrong: as uncertain as forty answers of one token."""
    totals = [10.0 * (number % 4 == 0) for number in range(40)]
    clustered = ratio_interval(totals, [10] * 40)
    as_tokens = mean_interval([float(number % 4 == 0) for number in range(400)])
    assert clustered.high - clustered.low > 2.5 * (as_tokens.high - as_tokens.low)
    assert ratio_interval([1, 0], [1, 3], scale=100, resamples=50).low == 0
