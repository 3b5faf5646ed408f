"""The memory for keys and values and the model over it, as the scheduler sees them.

There are two implementations, one for each kind of runner: ``slot_pool`` and ``block_pool``. The scheduler speaks of
whole sequences; where their positions lie is the pool's own business, noted in ``Sequence.place``. Its books may run
ahead of the model by one step: what has been admitted runs in that order before anything is released.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.embedded.runner import Runner
from nvlm_trt.embedded.sequence import Sequence

__all__ = ["Pool"]


class Pool(Protocol):
    @property
    def runner(self) -> Runner: ...

    @property
    def block_size(self) -> int:
        """Positions that are reused together or not at all."""

    @property
    def capacity(self) -> int:
        """Positions that one sequence can have when it is alone."""

    def admit(self, sequence: Sequence, spare: int) -> bool:
        """Make room for all ids a sequence has so far, and set its ``cached`` to the positions that are there already.

        Returns False and changes nothing if fewer than ``spare`` blocks would be left for running sequences.
        """

    def grow(self, sequence: Sequence) -> bool:
        """Make room for one position more than ``cached``; False when there is none."""

    def release(self, sequence: Sequence) -> None: ...

    def in_order(self, decoding: list[Sequence]) -> list[Sequence]:
        """The same sequences as ``decode`` wants them."""

    def prefill(self, sequence: Sequence, start: int, stop: int) -> NDArray[np.float32]:
        """Compute prompt positions ``start`` to ``stop``; the last one's logits [vocab]."""

    def decode(self, sequences: list[Sequence]) -> NDArray[np.float32]:
        """Compute position ``cached`` of each; logits [n, vocab]."""

    def figures(self) -> dict[str, int]:
        """``pool_tokens``: positions in all; ``free_tokens``: those that new sequences could have."""
