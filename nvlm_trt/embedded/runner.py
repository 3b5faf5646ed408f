"""One step of the model over a fixed pool of keys and values.

A runner knows nothing of requests: its caller says which sequence grows by which ids, and where its positions lie.
There are two kinds of pool, for two kinds of attention. Where attention reads one contiguous piece of memory per
sequence, the pool is *slots*; a batch is slots 0 to n - 1, and ``move`` lets the caller keep it so. Where attention can
follow a table, the pool is *blocks* of a few positions; any sequence may use any blocks, several may share one, and
nothing ever moves.

Logits are float32, belong to the runner, and are valid until its next call. A runner that fails raises; the engine then
ends every request with an error. A runner that holds resources may offer ``close()``; one that can fail between two
calls, ``alive``.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["BlockRunner", "Runner", "SlotRunner"]


class Runner(Protocol):
    """What every runner says about its model."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def hidden_size(self) -> int: ...

    @property
    def max_positions(self) -> int:
        """The longest sequence the model was made for."""


class SlotRunner(Runner, Protocol):
    """A pool of slots; each holds one sequence's positions from 0 up."""

    def prefill(
        self, slot: int, start: int, ids: NDArray[np.int32], prompt_table: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Append ``ids`` [n] at position ``start`` of a slot; the last one's logits [vocab].

        Ids from ``vocab_size`` up are rows of ``prompt_table`` [rows, hidden].
        """

    def decode(self, lengths: NDArray[np.int32], ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """Append one id to each of slots 0 to n - 1, which hold ``lengths`` [n] positions; logits [n, vocab]."""

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of a slot over another."""


class BlockRunner(Runner, Protocol):
    """A pool of blocks: position i of a sequence lies in ``blocks[i // block_size]``, at ``i % block_size``."""

    @property
    def num_blocks(self) -> int: ...

    @property
    def block_size(self) -> int:
        """Positions in a block."""

    def prefill(
        self,
        blocks: NDArray[np.int32],
        start: int,
        ids: NDArray[np.int32],
        prompt_table: NDArray[np.float32] | None,
    ) -> NDArray[np.float32]:
        """Append ``ids`` [k] at position ``start`` of the sequence in ``blocks`` [m], which have room for ``start + k``
        positions at least; the last one's logits [vocab].

        Ids from ``vocab_size`` up are rows of ``prompt_table`` [rows, hidden].
        """

    def decode(
        self, tables: NDArray[np.int32], lengths: NDArray[np.int32], ids: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Append one id to each of n sequences; logits [n, vocab].

        Row i of ``tables`` [n, width] is the i-th one's blocks, which hold ``lengths[i]`` positions before; rows are
        padded with any valid block number.
        """
