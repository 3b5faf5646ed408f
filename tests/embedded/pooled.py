"""Sequences and pools without a scheduler around them."""

from __future__ import annotations

from typing import Any

import numpy as np

from nvlm_trt.embedded.prefix import prefix_keys, reusable_blocks
from nvlm_trt.embedded.request import GenerationRequest
from nvlm_trt.embedded.sequence import Sequence
from tests.embedded.simulated_runner import VOCAB_SIZE, expected_tokens


def make_sequence(pool: Any, ids, max_tokens: int = 1, table=None, **fields: Any) -> Sequence:
    request = GenerationRequest("r", np.array(ids, np.int32), max_tokens, table, **fields)
    keys = prefix_keys(request, VOCAB_SIZE, pool.block_size)
    return Sequence(request, lambda emission: None, keys, reusable_blocks(len(ids), pool.block_size, pool.block_size))


def admit(pool: Any, ids, table=None, **fields: Any) -> tuple[Sequence, int]:
    """A sequence whose prompt has been computed and whose first token is right, and how many positions were reused."""
    sequence = make_sequence(pool, ids, 9, table, **fields)
    assert pool.admit(sequence, 0)
    reused = sequence.cached
    sequence.cached = len(ids)
    token = int(pool.prefill(sequence, reused, len(ids)).argmax())
    assert [token] == expected_tokens(ids, 1, table)
    sequence.accept(token)
    return sequence, reused
