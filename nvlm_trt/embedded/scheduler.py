"""Who takes part in the next step.

In-flight batching: every step is planned anew. Sequences that generate take part in each; prompts are let in first
come, first served, as slots and tokens allow, and enter in chunks so that a long one holds up the others by a chunk
per step at most.

* Slots are dense. Generating sequences have slots 0 to n - 1, so that their keys and values are one piece of memory;
  at most one prompt is half done, and has slot n. Ending a sequence moves the last one into its place.
* A prompt is cut at multiples of ``chunk`` whatever else goes on. A row's bits depend on whether it is computed alone
  or among others of its own sequence, so with a fixed cut the answer cannot depend on the load.
* Nothing can starve: ``chunk + max_batch_size <= max_num_tokens``, so every step has room for a chunk of the oldest
  prompt.

Pure: no clock, no thread, no model. A slot is reserved for a sequence's whole length, so nobody is ever evicted.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from nvlm_trt.embedded.sequence import Sequence
from nvlm_trt.errors import OverloadedError, UsageError

__all__ = ["Chunk", "Limits", "Move", "Scheduler", "Step"]


@dataclass(frozen=True, slots=True)
class Limits:
    """``max_num_tokens`` bounds a step's rows; ``chunk`` the part of a prompt that runs at once, less where tokens
    are few.

    Raises ``UsageError`` E-USAGE-LIMITS.
    """

    max_batch_size: int
    max_num_tokens: int
    max_waiting: int = 256
    chunk: int = 256

    def __post_init__(self) -> None:
        if min(self.max_batch_size, self.max_waiting, self.chunk) < 1 or self.max_num_tokens <= self.max_batch_size:
            raise UsageError(
                "E-USAGE-LIMITS",
                f"max_num_tokens is {self.max_num_tokens} with a batch of {self.max_batch_size}, a queue of "
                f"{self.max_waiting} and chunks of {self.chunk}; more tokens than streams, and at least 1 of each.",
                "Correct the recipe.",
            )
        object.__setattr__(self, "chunk", min(self.chunk, self.max_num_tokens - self.max_batch_size))


@dataclass(frozen=True, slots=True)
class Chunk:
    """Prompt ids ``start`` to ``stop`` of a sequence; ``last`` where its first token follows."""

    sequence: Sequence
    slot: int
    start: int
    stop: int
    last: bool


@dataclass(frozen=True, slots=True)
class Step:
    """``decoding`` lie in slots 0, 1, ... in this order."""

    decoding: list[Sequence]
    chunks: list[Chunk]

    @property
    def num_rows(self) -> int:
        return len(self.decoding) + sum(chunk.stop - chunk.start for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class Move:
    source: int
    target: int
    length: int


@dataclass
class Scheduler:
    """``plan`` assumes that its step will be run: run it, then plan again."""

    limits: Limits
    waiting: deque[Sequence] = field(default_factory=deque)
    decoding: list[Sequence] = field(default_factory=list)
    prefilling: Sequence | None = None

    @property
    def num_running(self) -> int:
        return len(self.decoding) + (self.prefilling is not None)

    @property
    def idle(self) -> bool:
        return not (self.decoding or self.prefilling or self.waiting)

    def sequences(self) -> list[Sequence]:
        """Everyone: generating, half done, waiting."""
        return [*self.decoding, *([self.prefilling] if self.prefilling else []), *self.waiting]

    def add(self, sequence: Sequence) -> None:
        """Raises ``OverloadedError`` E-BUSY-QUEUE when as many wait as may."""
        if len(self.waiting) >= self.limits.max_waiting:
            raise OverloadedError(
                "E-BUSY-QUEUE", f"{len(self.waiting)} requests are waiting already.", "Send it again in a moment."
            )
        self.waiting.append(sequence)

    def plan(self) -> Step:
        decoding, chunks = list(self.decoding), []
        budget = self.limits.max_num_tokens - len(decoding)
        if decoding:
            budget = min(budget, self.limits.chunk)
        while sequence := self._next_prompt():
            start = sequence.prefilled
            stop = min(start + self.limits.chunk, sequence.prompt_length)
            if stop - start > budget:
                break
            budget -= stop - start
            last = stop == sequence.prompt_length
            chunks.append(Chunk(sequence, len(self.decoding), start, stop, last))
            sequence.prefilled = stop
            if last:
                self.decoding.append(sequence)
                self.prefilling = None
        return Step(decoding, chunks)

    def finish(self, sequence: Sequence) -> list[Move]:
        """Forget a sequence, wherever it is. The moves close its gap: to be done in order, before the next step."""
        if sequence is self.prefilling:
            self.prefilling = None
        elif sequence in self.decoding:
            gap = self.decoding.index(sequence)
            last = self.decoding.pop()
            moves = []
            if last is not sequence:
                self.decoding[gap] = last
                moves.append(Move(len(self.decoding), gap, last.cached))
            if self.prefilling and self.prefilling.prefilled:
                moves.append(Move(len(self.decoding) + 1, len(self.decoding), self.prefilling.prefilled))
            return moves
        else:
            self.waiting.remove(sequence)
        return []

    def _next_prompt(self) -> Sequence | None:
        if self.prefilling is None and self.waiting and len(self.decoding) < self.limits.max_batch_size:
            self.prefilling = self.waiting.popleft()
        return self.prefilling
