"""A pool of slots: every sequence has a slot of its own, and what it shares with others is copied.

Slots are dense. Generating sequences have slots 0 to n - 1, which the runner reads as one piece of memory; at most one
prompt is half done, and has slot n. When a sequence ends, the last one moves into its place. A free slot keeps the
prompt it last held until it is needed. A new sequence begins with a copy of the longest beginning it shares with any
slot, live or free, or stays where that already is. Copying a position costs about a thousandth of computing it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.embedded.runner import SlotRunner
from nvlm_trt.embedded.sequence import Sequence

__all__ = ["SlotPool"]


class SlotPool:
    """A ``Pool`` over a ``SlotRunner`` of ``num_slots`` slots with ``max_seq_len`` positions each."""

    def __init__(self, runner: SlotRunner, num_slots: int, max_seq_len: int, block_size: int = 32) -> None:
        self.runner, self.block_size, self.capacity = runner, block_size, max_seq_len
        self._num_slots = num_slots
        self._live: list[Sequence] = []  # by slot
        self._kept: list[list[bytes]] = [[] for _ in range(num_slots)]  # by slot, of the free ones
        self._used = [0] * num_slots  # when a free slot's content was last of use
        self._clock = 0
        # What has to be copied before the newest prompt runs; its source may still be waiting to be computed.
        self._copies: dict[Sequence, list[tuple[int, int, int]]] = {}

    def admit(self, sequence: Sequence, spare: int) -> bool:
        slot = len(self._live)
        if slot == self._num_slots:
            return False
        self._clock += 1
        source, count = self._find(sequence.keys[: sequence.reusable])
        copies = self._copies[sequence] = []
        if _in_common(self._kept[slot], sequence.keys) < len(self._kept[slot]):
            self._save(slot, self._kept[slot], self._used[slot], copies, source)
        if count and source != slot:
            copies.append((source, slot, count * self.block_size))
        self._kept[slot] = []
        self._live.append(sequence)
        sequence.place, sequence.cached = slot, count * self.block_size
        return True

    def grow(self, sequence: Sequence) -> bool:
        return True

    def release(self, sequence: Sequence) -> None:
        self._copy(self._live[-1])
        self._clock += 1
        slot: int = sequence.place
        keys = self._keys(sequence)
        copies: list[tuple[int, int, int]] = []
        vacated = len(self._live) - 1
        if slot == vacated:
            self._live.pop()
            self._kept[slot], self._used[slot] = keys, self._clock
        else:
            self._save(slot, keys, self._clock, copies, slot)
            followers = self._live[-2:] if self._live[-1].in_prompt else self._live[-1:]
            for follower in followers:  # the last that generates closes the gap, the half done prompt that one's
                if follower is not sequence:
                    copies.append((follower.place, slot, follower.cached))
                    self._live[slot], slot, follower.place = follower, follower.place, slot
            self._live.pop()
            self._kept[vacated], self._used[vacated] = [], 0
        for copy in copies:
            self.runner.move(*copy)
        sequence.place = None

    def in_order(self, decoding: list[Sequence]) -> list[Sequence]:
        return self._live[: len(decoding)]

    def prefill(self, sequence: Sequence, start: int, stop: int) -> NDArray[np.float32]:
        self._copy(sequence)
        request = sequence.request
        return self.runner.prefill(sequence.place, start, request.input_ids[start:stop], request.prompt_table)

    def decode(self, sequences: list[Sequence]) -> NDArray[np.float32]:
        lengths = np.array([sequence.cached for sequence in sequences], np.int32)
        return self.runner.decode(lengths, np.array([sequence.next_id for sequence in sequences], np.int32))

    def figures(self) -> dict[str, int]:
        free = self._num_slots - len(self._live)
        return {"pool_tokens": self._num_slots * self.capacity, "free_tokens": free * self.capacity}

    def _copy(self, sequence: Sequence) -> None:
        for copy in self._copies.pop(sequence, ()):
            self.runner.move(*copy)

    def _keys(self, sequence: Sequence) -> list[bytes]:
        """The keys of the prompt blocks that its slot holds."""
        return sequence.keys[: sequence.cached // self.block_size]

    def _find(self, keys: list[bytes], but: int | None = None) -> tuple[int, int]:
        """A slot that holds the most of ``keys``, and how many; the next new sequence's own slot if it ties."""
        live = [self._keys(sequence) for sequence in self._live]
        counts = [_in_common(held, keys) for held in (*live, *self._kept[len(live) :])]
        if but is not None:
            counts[but] = -1
        most, own = max(counts), len(live)
        best = own if own < len(counts) and counts[own] == most else counts.index(most)
        self._used[best] = self._clock
        return best, most

    def _save(self, slot: int, keys: list[bytes], used: int, copies: list[tuple[int, int, int]], but: int) -> None:
        """Keep what a slot holds in the least recently used free slot, if that one is older and nobody else has it."""
        after = [other for other in range(len(self._live), self._num_slots) if other not in (slot, but)]
        target = min(after, key=self._used.__getitem__, default=slot)
        if not keys or target == slot or self._used[target] > used or self._find(keys, slot)[1] == len(keys):
            return
        copies.append((slot, target, len(keys) * self.block_size))
        self._kept[target], self._used[target] = keys, used


def _in_common(some: list[bytes], others: list[bytes]) -> int:
    """Keys are chained: where one is equal, all before it are."""
    if not some or not others or some[0] != others[0]:
        return 0
    low, high = 1, min(len(some), len(others))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if some[middle - 1] == others[middle - 1] else (low, middle - 1)
    return low
