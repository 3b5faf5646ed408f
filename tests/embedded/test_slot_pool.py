from __future__ import annotations

import pytest

from nvlm_trt.embedded.slot_pool import SlotPool
from tests.embedded.pooled import admit, make_sequence
from tests.embedded.simulated_runner import SimulatedRunner, expected_tokens


class CountingRunner(SimulatedRunner):
    def __init__(self, *args):
        super().__init__(*args)
        self.moves = []

    def move(self, source, target, length):
        assert length > 0
        self.moves.append((source, target, length))
        super().move(source, target, length)


@pytest.fixture
def pool():
    return SlotPool(CountingRunner(4, 64), num_slots=4, max_seq_len=64, block_size=4)


def answers_on(pool, *sequences):
    """One step of all; their second tokens are right."""
    ordered = pool.in_order(list(sequences))
    for sequence, logits in zip(ordered, pool.decode(ordered), strict=True):
        expected = expected_tokens(sequence.request.input_ids, len(sequence.tokens) + 1, sequence.request.prompt_table)
        assert int(logits.argmax()) == expected[-1]
        sequence.cached += 1
        sequence.accept(expected[-1])


def test_a_second_question_alone_stays_in_its_slot_and_copies_nothing(pool):
    pool.release(admit(pool, [1] * 8 + [2])[0])
    assert admit(pool, [1] * 8 + [3, 4])[1] == 8
    assert pool.runner.moves == []


def test_what_runs_is_copied_from_without_disturbing_it(pool):
    first, _ = admit(pool, [1] * 9)
    second, reused = admit(pool, [1] * 8 + [7])
    assert (reused, pool.runner.moves) == (8, [(0, 1, 8)])
    answers_on(pool, first, second)


def test_a_gap_is_closed_by_the_last_that_generates_and_then_the_half_done_prompt(pool):
    sequences = [admit(pool, [first] * 5)[0] for first in (1, 2, 3)]
    half = make_sequence(pool, [4] * 13)
    assert pool.admit(half, 0)
    pool.prefill(half, 0, 8)
    half.cached = 8
    pool.release(sequences[0])
    assert pool.runner.moves == [(2, 0, 5), (3, 2, 8)]
    pool.prefill(half, 8, 13)
    half.cached = 13
    half.accept(expected_tokens([4] * 13, 1)[0])
    answers_on(pool, *sequences[1:], half)
    pool.release(half)
    pool.release(sequences[1])
    answers_on(pool, sequences[2])


def test_a_prompt_that_ends_in_the_middle_is_kept_in_a_free_slot(pool):
    first, second = (admit(pool, [first] * 9)[0] for first in (1, 2))
    pool.release(first)
    assert pool.runner.moves == [(0, 2, 8), (1, 0, 9)]
    assert admit(pool, [1] * 9)[1] == 8
    answers_on(pool, second)


def test_the_least_recently_used_prompt_makes_room(pool):
    for first in (1, 2, 3, 4):  # each in slot 0; what was there moves on
        pool.release(admit(pool, [first] * 9)[0])
    assert admit(pool, [1] * 9)[1] == 8  # used again
    pool.release(admit(pool, [5] * 9)[0])
    pool.release(admit(pool, [6] * 9)[0])
    assert admit(pool, [2] * 9)[1] == 0
    assert admit(pool, [6] * 9)[1] == 8


def test_copies_wait_for_what_they_copy(pool):
    """Two prompts with one beginning let in before either is computed, and a third that is then cancelled."""
    first, second, third = (make_sequence(pool, [1] * 8 + [last], 9) for last in (2, 3, 4))
    for sequence in (first, second, third):
        assert pool.admit(sequence, 0)
        start, sequence.cached = sequence.cached, min(sequence.cached + 9, 9) if sequence is not third else 8
        assert start == (0 if sequence is first else 8)
    for sequence, start in ((first, 0), (second, 8)):
        token = int(pool.prefill(sequence, start, 9).argmax())
        sequence.accept(token)
    pool.release(first)  # the third moves while its copy is still to be made
    pool.prefill(third, 8, 9)
    third.cached = 9
    assert third.accept(expected_tokens([1] * 8 + [4], 1)[0]) is None
    answers_on(pool, second, third)


def test_a_full_pool_admits_nobody(pool):
    for first in range(4):
        admit(pool, [first] * 5)
    assert not pool.admit(make_sequence(pool, [9] * 5), 0)
    assert pool.figures() == {"pool_tokens": 256, "free_tokens": 0}
