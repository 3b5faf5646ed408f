"""Runners whose model is arithmetic on what their memory holds: confused slots, blocks, positions or pictures show in
the tokens.

Memory holds a number per position: an id of the vocabulary, or for a virtual id one made of its row's bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

VOCAB_SIZE, HIDDEN_SIZE = 97, 4
_STALE = -(2**62)


def content(ids: NDArray[np.int32], prompt_table: NDArray[np.float32] | None) -> NDArray[np.int64]:
    held = np.asarray(ids, np.int64).copy()
    for index in np.flatnonzero(held >= VOCAB_SIZE):
        assert prompt_table is not None
        row = prompt_table[held[index] - VOCAB_SIZE].tobytes()
        held[index] = -1 - int.from_bytes(hashlib.sha256(row).digest()[:6], "little")
    return held


def next_token(held: Sequence[int]) -> int:
    return hashlib.sha256(np.asarray(held, np.int64).tobytes()).digest()[0] % VOCAB_SIZE


def expected_tokens(ids: ArrayLike, max_tokens: int, prompt_table: NDArray[np.float32] | None = None) -> list[int]:
    """What a request for these ids is answered with when it runs alone."""
    held: list[int] = content(np.asarray(ids), prompt_table).tolist()
    for _ in range(max_tokens):
        held.append(next_token(held))
    return held[len(held) - max_tokens :]


def logits_of(held: NDArray[np.int64]) -> NDArray[np.float32]:
    assert _STALE not in held, "a position was lost"
    logits = np.zeros(VOCAB_SIZE, np.float32)
    logits[next_token(held.tolist())] = 1
    return logits


class SimulatedRunner:
    """A ``SlotRunner``."""

    vocab_size, hidden_size, max_positions = VOCAB_SIZE, HIDDEN_SIZE, 4096

    def __init__(self, num_slots: int, max_seq_len: int) -> None:
        self.slots = np.full((num_slots, max_seq_len), _STALE, np.int64)

    def prefill(
        self, slot: int, start: int, ids: NDArray[np.int32], prompt_table: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        held = self.slots[slot]
        assert _STALE not in held[:start], "a chunk was skipped"
        held[start:] = _STALE
        held[start : start + len(ids)] = content(ids, prompt_table)
        return logits_of(held[: start + len(ids)])

    def decode(self, lengths: NDArray[np.int32], ids: NDArray[np.int32]) -> NDArray[np.float32]:
        self.slots[np.arange(len(ids)), lengths] = ids
        return np.stack([logits_of(self.slots[slot, : length + 1]) for slot, length in enumerate(lengths)])

    def move(self, source: int, target: int, length: int) -> None:
        self.slots[target] = _STALE
        self.slots[target, :length] = self.slots[source, :length]


class SimulatedBlockRunner:
    """A ``BlockRunner``."""

    vocab_size, hidden_size, max_positions = VOCAB_SIZE, HIDDEN_SIZE, 4096

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self.blocks = np.full((num_blocks, block_size), _STALE, np.int64)

    def prefill(
        self,
        blocks: NDArray[np.int32],
        start: int,
        ids: NDArray[np.int32],
        prompt_table: NDArray[np.float32] | None,
    ) -> NDArray[np.float32]:
        return self._append(blocks, start, content(ids, prompt_table))

    def decode(
        self, tables: NDArray[np.int32], lengths: NDArray[np.int32], ids: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        assert tables.dtype == lengths.dtype == ids.dtype == np.int32
        assert ((tables >= 0) & (tables < self.num_blocks)).all()
        return np.stack([self._append(*row) for row in zip(tables, lengths, ids.reshape(-1, 1), strict=True)])

    def _append(self, blocks: NDArray[np.int32], start: int, held: NDArray[np.int64]) -> NDArray[np.float32]:
        positions = np.arange(start, start + len(held))
        first = start // self.block_size
        if start % self.block_size == 0:
            self.blocks[blocks[first]] = _STALE
        self.blocks[blocks[positions // self.block_size], positions % self.block_size] = held
        return logits_of(self.blocks[blocks].reshape(-1)[: start + len(held)])
