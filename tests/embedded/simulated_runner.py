"""A runner whose model is arithmetic on a slot's ids: confused slots, positions or moves show in the tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

VOCAB_SIZE, HIDDEN_SIZE = 97, 4
_STALE = -1


def next_token(ids: Sequence[int]) -> int:
    return hashlib.sha256(np.asarray(ids, np.int32).tobytes()).digest()[0] % VOCAB_SIZE


def expected_tokens(ids: Sequence[int], max_tokens: int) -> list[int]:
    """What a request for these ids is answered with when it runs alone."""
    ids = list(ids)
    for _ in range(max_tokens):
        ids.append(next_token(ids))
    return ids[len(ids) - max_tokens :]


class SimulatedRunner:
    vocab_size, hidden_size, max_positions = VOCAB_SIZE, HIDDEN_SIZE, 4096

    def __init__(self, num_slots: int, max_seq_len: int) -> None:
        self.slots = np.full((num_slots, max_seq_len), _STALE, np.int32)

    def prefill(
        self, slot: int, start: int, ids: NDArray[np.int32], prompt_table: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        held = self.slots[slot]
        assert _STALE not in held[:start], "a chunk was skipped"
        held[start:] = _STALE
        held[start : start + len(ids)] = ids
        return self._logits(slot, start + len(ids))

    def decode(self, lengths: NDArray[np.int32], ids: NDArray[np.int32]) -> NDArray[np.float32]:
        self.slots[np.arange(len(ids)), lengths] = ids
        return np.stack([self._logits(slot, length + 1) for slot, length in enumerate(lengths)])

    def move(self, source: int, target: int, length: int) -> None:
        self.slots[target] = _STALE
        self.slots[target, :length] = self.slots[source, :length]
        self.slots[source] = _STALE

    def _logits(self, slot: int, length: int) -> NDArray[np.float32]:
        held = self.slots[slot, :length]
        assert _STALE not in held, "a position was lost"
        logits = np.zeros(VOCAB_SIZE, np.float32)
        logits[next_token(held.tolist())] = 1
        return logits
