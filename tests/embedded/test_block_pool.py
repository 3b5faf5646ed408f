from __future__ import annotations

import numpy as np
import pytest

from nvlm_trt.embedded.block_pool import BlockPool
from tests.embedded.pooled import admit, make_sequence
from tests.embedded.simulated_runner import HIDDEN_SIZE, VOCAB_SIZE, SimulatedBlockRunner


@pytest.fixture
def pool():
    return BlockPool(SimulatedBlockRunner(num_blocks=8, block_size=4), max_batch_size=4, max_seq_len=64)


def free(pool):
    return pool.figures()["free_tokens"]


def test_what_is_shared_takes_no_memory_and_stays_while_anybody_uses_it(pool):
    first, _ = admit(pool, [1] * 8 + [2])
    assert free(pool) == 32 - 12
    second, reused = admit(pool, [1] * 8 + [3])
    assert (reused, free(pool)) == (8, 32 - 16)
    pool.release(first)
    assert free(pool) == 32 - 12
    third, reused = admit(pool, [1] * 8 + [4])
    assert reused == 8
    pool.release(second)
    pool.release(third)
    assert free(pool) == 32


def test_a_prompt_that_ended_is_found_until_its_memory_is_wanted_the_oldest_first(pool):
    for first in (1, 2, 3):
        pool.release(admit(pool, [first] * 8 + [0])[0])  # three blocks each, two with a key
    assert admit(pool, [1] * 8 + [5])[1] == 8  # in use from here on
    pool.release(admit(pool, [9] * 9)[0])  # three of the five that are left: the empty one, and 2's two before 3's
    assert make_and_drop(pool, [3] * 8 + [0]) == 8
    assert make_and_drop(pool, [2] * 8 + [0]) == 0


def make_and_drop(pool, ids):
    sequence = make_sequence(pool, ids)
    assert pool.admit(sequence, 0)
    reused = sequence.cached
    pool.release(sequence)
    return reused


def test_the_end_of_a_prompt_is_forgotten_before_its_beginning(pool):
    pool.release(admit(pool, [*range(24)])[0])  # six blocks kept, two empty
    pool.release(admit(pool, [90] * 11)[0])  # three: the empty ones and one of the six
    assert admit(pool, [*range(24), 5])[1] == 20


def test_two_pictures_of_one_size_never_mix_and_a_second_question_computes_its_words_only(pool):
    tables = [np.random.default_rng(seed).standard_normal((6, HIDDEN_SIZE)).astype(np.float32) for seed in range(2)]
    picture = [1, *range(VOCAB_SIZE, VOCAB_SIZE + 6), 2]
    for table, question, wanted in ((tables[0], 7, 0), (tables[1], 8, 0), (tables[0], 8, 8), (tables[1], 7, 8)):
        sequence, reused = admit(pool, [*picture, question], table)
        assert reused == wanted
        pool.release(sequence)
    extra = np.array([0] + [5] * 6 + [0, 0], np.uint64)
    assert admit(pool, [*picture, 9], tables[0], extra_ids=extra)[1] == 0


def test_a_prompt_that_was_left_half_done_is_not_found(pool):
    sequence = make_sequence(pool, [*range(16)])
    assert pool.admit(sequence, 0)
    pool.prefill(sequence, 0, 8)
    sequence.cached = 8
    pool.release(sequence)
    assert admit(pool, [*range(16), 1])[1] == 8


def test_growing_takes_a_block_when_the_last_is_full_and_none_when_there_is_none(pool):
    sequence, _ = admit(pool, [1] * 7)
    admit(pool, [2] * 23)
    assert pool.grow(sequence)
    sequence.cached = 8
    assert free(pool) == 0
    assert not pool.grow(sequence)


def test_admission_leaves_the_spare_blocks_and_counts_what_it_would_take_from_the_kept(pool):
    pool.release(admit(pool, [1] * 17)[0])  # four kept blocks, five used
    wants = make_sequence(pool, [1] * 16 + [2] * 9)  # four kept and three more
    assert not pool.admit(wants, 2)
    assert free(pool) == 32
    assert pool.admit(wants, 1)
    assert free(pool) == 4


def test_equal_prompts_that_are_computed_twice_leave_one_of_two_findable(pool):
    first, _ = admit(pool, [1] * 8)  # its last block may not be reused: the logits are wanted
    second, reused = admit(pool, [1] * 8)
    assert reused == 4
    pool.release(first)
    pool.release(second)
    assert free(pool) == 32
    assert admit(pool, [1] * 9)[1] == 8
