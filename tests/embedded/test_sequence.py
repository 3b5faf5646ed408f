from __future__ import annotations

import numpy as np
import pytest

from nvlm_trt.embedded.request import FinishReason, GenerationRequest
from nvlm_trt.embedded.sequence import Sequence, check_request
from nvlm_trt.errors import RequestError


def run(tokens, **fields):
    """The sequence after it took ``tokens``, and what each acceptance said."""
    fields = {"max_tokens": 10, **fields}
    sequence = Sequence(GenerationRequest("r", np.array([1, 2, 3], np.int32), **fields), lambda emission: None)
    return sequence, [sequence.accept(token) for token in tokens]


def test_a_stop_word_ends_across_tokens_and_stays_in_the_answer():
    sequence, said = run([7, 8, 9], stop_words=((8, 9), (4,)))
    assert said == [None, None, FinishReason.STOP_WORD]
    assert sequence.tokens == [7, 8, 9]


def test_a_stop_word_is_found_when_its_beginning_repeats():
    assert run([8, 8, 9], stop_words=((8, 9),))[1][-1] is FinishReason.STOP_WORD


def test_the_prompt_does_not_begin_a_stop_word():
    assert run([9], stop_words=((3, 9),))[1] == [None]


def test_the_end_id_ends_and_is_not_in_the_answer():
    sequence, said = run([7, 5], end_id=5)
    assert said == [None, FinishReason.END_ID]
    assert sequence.tokens == [7]


def test_length_ends_and_a_stop_word_at_the_same_token_is_named_instead():
    assert run([7, 8], max_tokens=2)[1] == [None, FinishReason.LENGTH]
    assert run([7, 8], max_tokens=2, stop_words=((8,),))[1] == [None, FinishReason.STOP_WORD]


def table(rows, hidden=4, dtype=np.float32):
    return np.ones((rows, hidden), dtype)


def with_nan():
    rows = table(1)
    rows[0, 2] = np.nan
    return rows


@pytest.mark.parametrize(
    ("ids", "prompt_table", "max_tokens", "code"),
    [
        ([1] * 20, None, 13, "E-PROMPT-LENGTH"),
        ([1], None, 2**31 - 1, "E-PROMPT-LENGTH"),
        ([-1], None, 1, "E-PROMPT-TOKEN"),
        ([100], None, 1, "E-PROMPT-TOKEN"),
        ([102], table(2), 1, "E-PROMPT-TABLE"),
        ([100], table(2, hidden=5), 1, "E-PROMPT-TABLE"),
        ([100], table(2, dtype=np.float64), 1, "E-PROMPT-TABLE"),
        ([100], np.ones(4, np.float32), 1, "E-PROMPT-TABLE"),
        ([100], with_nan(), 1, "E-PROMPT-TABLE"),
    ],
)
def test_requests_the_model_cannot_run_are_refused(ids, prompt_table, max_tokens, code):
    request = GenerationRequest("r", np.array(ids, np.int32), max_tokens, prompt_table)
    with pytest.raises(RequestError) as caught:
        check_request(request, vocab_size=100, hidden_size=4, max_seq_len=32)
    assert caught.value.code == code


def test_the_longest_request_and_the_last_row_pass():
    ids = np.array([99, *[101] * 30], np.int32)
    check_request(GenerationRequest("r", ids, 1, table(2)), vocab_size=100, hidden_size=4, max_seq_len=32)
