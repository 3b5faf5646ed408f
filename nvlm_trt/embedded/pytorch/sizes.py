"""How much a runner holds and how much one call may ask of it. Frozen, checked once."""

from __future__ import annotations

from dataclasses import dataclass

from nvlm_trt.errors import UsageError

__all__ = ["RunnerSizes"]


@dataclass(frozen=True, slots=True)
class RunnerSizes:
    """``max_rows`` is the most ids of one ``prefill``, ``max_batch_size`` the most sequences of one ``decode``.

    ``num_blocks`` None is what fits: on CUDA the free memory, on the CPU every sequence at its full length.

    Raises ``UsageError`` E-USAGE-LIMITS.
    """

    max_seq_len: int
    max_batch_size: int
    max_rows: int
    block_size: int = 32
    num_blocks: int | None = None

    def __post_init__(self) -> None:
        counts = (self.max_seq_len, self.max_batch_size, self.max_rows, self.block_size, self.num_blocks or 1)
        if min(counts) < 1:
            raise UsageError("E-USAGE-LIMITS", "A size of the torch runner is below 1.", "Correct the recipe.")

    @property
    def width(self) -> int:
        """The most blocks of a sequence."""
        return -(-self.max_seq_len // self.block_size)
