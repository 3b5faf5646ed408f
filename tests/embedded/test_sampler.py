from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nvlm_trt.embedded.request import GenerationRequest, Sampling
from nvlm_trt.embedded.sampler import sample, uniform
from nvlm_trt.embedded.sequence import Sequence


def make_sequence(tokens=(), prompt=(0,), sampling=None, **fields):
    request = GenerationRequest("r", np.array(prompt, np.int32), 1000, sampling=sampling or Sampling(), **fields)
    sequence = Sequence(request, lambda emission: None)
    sequence.tokens.extend(tokens)
    return sequence


def one(logits, sequence):
    """The token and the log probability for a single row."""
    tokens, log_probs = sample(np.array([logits], np.float32), [sequence])
    return tokens[0], log_probs[0]


def seen_ids(logits, draws=400, **sampling):
    """Every id that comes up in many draws."""
    return {one(logits, make_sequence(tokens=[0] * n, sampling=Sampling(**sampling)))[0] for n in range(draws)}


def test_greedy_takes_the_first_of_the_largest():
    assert one([1, 3, 3, 2], make_sequence())[0] == 1
    assert one([1, 3, 2], make_sequence(sampling=Sampling(temperature=0, top_k=0)))[0] == 1


def test_frequencies_follow_the_softmax():
    logits = np.log([0.5, 0.3, 0.2]).astype(np.float32)
    draws = [one(logits, make_sequence([0] * n, sampling=Sampling(top_k=0, seed=4)))[0] for n in range(3000)]
    assert np.bincount(draws) / len(draws) == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


def test_temperature_sharpens_and_flattens():
    logits = np.log([0.8, 0.2]).astype(np.float32)

    def share(temperature):
        sampling = Sampling(top_k=0, temperature=temperature)
        return np.mean([one(logits, make_sequence([0] * n, sampling=sampling))[0] for n in range(2000)])

    assert share(0.5) == pytest.approx(0.04 / 0.68, abs=0.02)
    assert share(100.0) == pytest.approx(0.5, abs=0.03)
    assert share(1e-9) == 0


def test_top_k_and_top_p_leave_the_likeliest():
    logits = np.log([0.1, 0.4, 0.3, 0.2]).astype(np.float32)
    assert seen_ids(logits, top_k=2) == {1, 2}
    assert seen_ids(logits, top_k=0, top_p=0.65) == {1, 2}
    assert seen_ids(logits, top_k=0, top_p=0.0) == {1}
    # Top-p counts within what top-k left: 0.4 of 0.7 is under 0.6, so both stay.
    assert seen_ids(logits, top_k=2, top_p=0.6) == {1, 2}
    assert seen_ids(logits, top_k=2, top_p=0.5) == {1}
    assert seen_ids(logits, top_k=100) == {0, 1, 2, 3}


def test_penalties_count_prompt_and_answer():
    def token(logits, **penalties):
        # id 1 stands once in the prompt and, sampled below, once in the answer; virtual ids do not count
        sequence = make_sequence(prompt=(1, 900), sampling=Sampling(**penalties))
        one([0, 9, 0, 0], sequence)
        return one(logits, sequence)[0]

    assert token([0, 2.0, 0, 1.5]) == 1
    assert token([0, 2.0, 0, 1.5], repetition_penalty=1.5) == 3
    assert token([-3, -2.0, -3, -2.5], repetition_penalty=1.5) == 3
    assert token([0, 2.0, 0, 1.5], presence_penalty=0.6) == 3
    assert token([0, 2.0, 0, 1.5], presence_penalty=0.4) == 1
    assert token([0, 2.0, 0, 1.5], frequency_penalty=0.3) == 3
    assert token([0, 2.0, 0, 1.5], frequency_penalty=0.2) == 1


def test_a_bias_is_added_before_the_temperature():
    bias = np.array([0, 0, 2], np.float32)
    assert one([0, 3, 2], make_sequence(embedding_bias=bias))[0] == 2
    cooler = make_sequence(embedding_bias=bias, sampling=Sampling(temperature=0.5), return_log_probs=True)
    assert one([0, 3, 2], cooler)[1] == (pytest.approx(-math.log(1 + math.exp(-8) + math.exp(-2)), abs=1e-6),)


def test_every_answer_of_several_draws_as_under_its_own_seed():
    logits = np.zeros((1, 1000), np.float32)
    request = make_sequence(sampling=Sampling(top_k=0, seed=5), num_return_sequences=3).request
    drawn = [sample(logits, [Sequence(request, lambda emission: None, index=index)])[0][0] for index in range(3)]
    assert drawn == [one(logits[0], make_sequence(sampling=Sampling(top_k=0, seed=5 + n)))[0] for n in range(3)]
    assert len({*drawn}) == 3


def test_bad_words_are_ruled_out_at_their_last_token():
    assert one([0, 3, 2], make_sequence(bad_words=((1,),)))[0] == 2
    assert one([0, 3, 2], make_sequence(tokens=[5, 6], bad_words=((5, 6, 1),)))[0] == 2
    assert one([0, 3, 2], make_sequence(tokens=[6, 5], bad_words=((5, 6, 1),)))[0] == 1
    assert one([0, 3, 2], make_sequence(tokens=[6], bad_words=((5, 6, 1), (99,))))[0] == 1


def test_the_end_id_waits_for_min_tokens():
    assert one([0, 3, 2], make_sequence(tokens=[7], end_id=1, min_tokens=2))[0] == 2
    assert one([0, 3, 2], make_sequence(tokens=[7, 7], end_id=1, min_tokens=2))[0] == 1


def test_log_probabilities_are_of_the_whole_distribution():
    logits = np.log([0.2, 0.7, 0.1])
    assert one(logits, make_sequence(return_log_probs=True))[1] == (pytest.approx(math.log(0.7), abs=1e-6),)
    cut = make_sequence(return_log_probs=True, sampling=Sampling(top_k=0, top_p=0.1))
    assert one(logits, cut)[1] == (pytest.approx(math.log(0.7), abs=1e-6),)
    assert one(logits, make_sequence())[1] == ()


def test_uniform_numbers_are_even_and_their_own():
    numbers = np.array([uniform(seed, counter) for seed in range(40) for counter in range(50)])
    assert len(set(numbers)) == len(numbers)
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert np.histogram(numbers, 10, (0, 1))[0] == pytest.approx([200] * 10, abs=50)
    assert uniform(2**64 - 1, 3) != uniform(2**64 - 2, 3)


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 1000]),
    top_p=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    seed=st.integers(0, 2**64 - 1),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    presence_penalty=st.sampled_from([0.0, 0.5]),
)
rows = hnp.arrays(np.float32, (6, 23), elements=st.floats(-40, 40, width=32))


@settings(deadline=None)
@given(logits=rows, samplings=st.lists(samplings, min_size=6, max_size=6), log_probs=st.booleans())
def test_company_changes_nothing(logits, samplings, log_probs):
    def sequences():
        return [make_sequence(tokens=[1, 2], sampling=one, return_log_probs=log_probs) for one in samplings]

    before = logits.copy()
    together = sample(logits, sequences())
    alone = [sample(logits[index : index + 1], [one]) for index, one in enumerate(sequences())]
    assert together == ([tokens[0] for tokens, _ in alone], [probs[0] for _, probs in alone])
    assert np.array_equal(logits, before)


@settings(deadline=None)
@given(logits=rows, sampling=samplings)
def test_what_is_drawn_was_allowed(logits, sampling):
    for row in logits:
        token, _ = one(row, make_sequence(sampling=sampling, bad_words=((3,),)))
        assert token != 3
        allowed = np.delete(row, [0, 3])  # 0 is in the prompt: penalties move it
        if sampling.top_k and token:
            assert (allowed > row[token]).sum() < sampling.top_k


def test_logits_that_are_no_numbers_give_some_token():
    logits = np.full((1, 5), np.nan, np.float32)
    tokens, _ = sample(logits, [make_sequence(sampling=Sampling(top_k=3, top_p=0.5))])
    assert 0 <= tokens[0] < 5
