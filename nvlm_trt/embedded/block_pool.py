"""A pool of blocks: every sequence has a table of blocks, and blocks of equal content are shared.

A block counts the sequences that read it, and only the sequence that filled it writes to it. Only blocks that a prompt
fills can be shared, and nothing is ever appended to those. Without users, a block that holds a known prefix stays
cached until its memory is needed, the least recently used first. A sequence's last blocks go before its first ones,
because nobody can find a prefix without its beginning.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.embedded.runner import BlockRunner
from nvlm_trt.embedded.sequence import Sequence

__all__ = ["BlockPool"]


@dataclass(slots=True)
class _Place:
    """``row`` of the pool's table repeats ``blocks``, for the runner."""

    row: int
    blocks: list[int]


class BlockPool:
    """A ``Pool`` over a ``BlockRunner``."""

    def __init__(self, runner: BlockRunner, max_batch_size: int, max_seq_len: int) -> None:
        self.runner, self.block_size = runner, runner.block_size
        self.capacity = min(max_seq_len, runner.num_blocks * runner.block_size)
        self._users = [0] * runner.num_blocks
        self._empty = list(range(runner.num_blocks))
        self._kept: dict[int, None] = {}  # unused blocks with a key, least recently used first
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._tables = np.zeros((max_batch_size, self._blocks_for(self.capacity)), np.int32)
        self._rows = list(range(max_batch_size))

    def admit(self, sequence: Sequence, spare: int) -> bool:
        shared = self._find(sequence.keys[: sequence.reusable])
        wanted = self._blocks_for(sequence.length) - len(shared)
        if wanted + spare > self._num_free - sum(block in self._kept for block in shared):
            return False
        for block in shared:
            self._users[block] += 1
            self._kept.pop(block, None)
        blocks = shared + [self._take() for _ in range(wanted)]
        # From now on others may find them: whoever does is run after this prompt.
        for key, block in list(zip(sequence.keys, blocks, strict=False))[len(shared) :]:
            if key not in self._block_of:
                self._block_of[key], self._key_of[block] = block, key
        row = self._rows.pop()
        self._tables[row, : len(blocks)] = blocks
        sequence.place, sequence.cached = _Place(row, blocks), len(shared) * self.block_size
        return True

    def grow(self, sequence: Sequence) -> bool:
        blocks: list[int] = sequence.place.blocks
        if sequence.cached < len(blocks) * self.block_size:
            return True
        if not self._num_free:
            return False
        blocks.append(self._take())
        self._tables[sequence.place.row, len(blocks) - 1] = blocks[-1]
        return True

    def release(self, sequence: Sequence) -> None:
        filled = sequence.cached // self.block_size
        for index, block in reversed(list(enumerate(sequence.place.blocks))):
            self._users[block] -= 1
            if index >= filled:
                self._forget(block)  # found in the books, but the prompt never got there
            if self._users[block] == 0:
                if block in self._key_of:
                    self._kept[block] = None
                else:
                    self._empty.append(block)
        self._rows.append(sequence.place.row)
        sequence.place = None

    def in_order(self, decoding: list[Sequence]) -> list[Sequence]:
        return list(decoding)

    def prefill(self, sequence: Sequence, start: int, stop: int) -> NDArray[np.float32]:
        request, table = sequence.request, self._tables[sequence.place.row, : self._blocks_for(stop)]
        return self.runner.prefill(table, start, request.input_ids[start:stop], request.prompt_table)

    def decode(self, sequences: list[Sequence]) -> NDArray[np.float32]:
        lengths = np.array([sequence.cached for sequence in sequences], np.int32)
        rows = [sequence.place.row for sequence in sequences]
        ids = np.array([sequence.next_id for sequence in sequences], np.int32)
        return self.runner.decode(self._tables[rows, : self._blocks_for(int(lengths.max()) + 1)], lengths, ids)

    def figures(self) -> dict[str, int]:
        return {
            "pool_tokens": self.runner.num_blocks * self.block_size,
            "free_tokens": self._num_free * self.block_size,
        }

    @property
    def _num_free(self) -> int:
        return len(self._empty) + len(self._kept)

    def _blocks_for(self, positions: int) -> int:
        return -(-positions // self.block_size)

    def _find(self, keys: list[bytes]) -> list[int]:
        blocks: list[int] = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def _take(self) -> int:
        if self._empty:
            block = self._empty.pop()
        else:
            block = next(iter(self._kept))
            del self._kept[block]
            self._forget(block)
        self._users[block] = 1
        return block

    def _forget(self, block: int) -> None:
        key = self._key_of.pop(block, None)
        if key is not None:
            del self._block_of[key]
