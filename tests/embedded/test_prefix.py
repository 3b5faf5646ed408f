from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.embedded.prefix import prefix_keys, reusable_blocks
from nvlm_trt.embedded.request import GenerationRequest

VOCAB = 10
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def keys(ids, table=None, extra=None, block_size=2):
    extra = None if extra is None else np.array(extra, np.uint64)
    return prefix_keys(GenerationRequest("r", np.array(ids, np.int32), 1, table, extra), VOCAB, block_size)


def test_a_key_for_every_full_block_and_none_for_what_is_left():
    assert [len(keys([1] * n)) for n in range(1, 6)] == [0, 1, 1, 2, 2]
    assert {len(key) for key in keys([1] * 8)} == {32}
    assert len({*keys([1] * 8)}) == 4, "equal blocks at different places are different prefixes"


def test_pictures_of_the_same_size_never_mix_and_equal_ones_do_whatever_their_numbers():
    picture = keys([1, 10, 11, 2], ROWS)
    other = ROWS.copy()
    other[1, 2] = np.nextafter(other[1, 2], np.float32(100))
    assert keys([1, 10, 11, 2], other)[1] != picture[1]
    assert keys([1, 10, 11, 2], other)[0] == picture[0]
    assert keys([1, 12, 13, 2], ROWS[[2, 3, 0, 1]]) == picture
    assert keys([1, 11, 10, 2], ROWS)[0] != picture[0]
    assert keys([1, 10, 11, 2], ROWS.astype(np.float32, order="F")) == picture


def test_other_extra_ids_are_another_prefix_and_none_are_zeros():
    assert keys([1, 2, 3, 4], extra=[0, 0, 0, 0]) == keys([1, 2, 3, 4])
    assert keys([1, 2, 3, 4], extra=[0, 0, 7, 7])[0] == keys([1, 2, 3, 4])[0]
    assert keys([1, 2, 3, 4], extra=[0, 0, 7, 7])[1] != keys([1, 2, 3, 4])[1]


ids = st.lists(st.integers(0, VOCAB + 3), min_size=1, max_size=12)


@settings(deadline=None)
@given(ids, ids, st.integers(1, 4))
def test_keys_are_equal_just_as_far_as_prompts_are(some, others, block_size):
    pairs = zip(keys(some, ROWS, None, block_size), keys(others, ROWS, None, block_size), strict=False)
    for block, (one, other) in enumerate(pairs, 1):
        assert (one == other) == (some[: block * block_size] == others[: block * block_size])


def pieces(start, length, chunk):
    while start < length:
        stop = min(start - start % chunk + chunk, length)
        yield from [stop - start == 1] * (stop - start)
        start = stop


@given(st.integers(1, 200), st.integers(2, 16), st.integers(1, 4), st.booleans())
def test_reuse_leaves_a_row_to_compute_and_none_alone_that_was_not_alone_before(length, block_size, factor, divides):
    chunk = block_size * factor if not divides else next(c for c in range(factor, 0, -1) if block_size % c == 0)
    start = reusable_blocks(length, block_size, chunk) * block_size
    assert start < length
    for reused in range(0, start + 1, block_size):
        assert [*pieces(reused, length, chunk)] == [*pieces(0, length, chunk)][reused:]
    assert length - start <= block_size + 1
