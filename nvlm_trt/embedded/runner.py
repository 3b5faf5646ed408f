"""One step of the model over a fixed pool of slots.

A slot holds the keys and values of one sequence. A runner knows nothing of requests: whoever calls it says which slot
grows by which ids. ``decode`` takes slots 0 to n - 1 so that a batch is one contiguous piece of memory; ``move`` lets
the caller keep it so.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Runner"]


class Runner(Protocol):
    """Logits are float32 and belong to the runner: they are valid until its next call."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def hidden_size(self) -> int: ...

    @property
    def max_positions(self) -> int:
        """The longest sequence the model was made for."""

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
