"""Decides which sequences take part in the next step.

In-flight batching: every step is planned anew. Sequences that generate take part in each. Prompts are admitted first
come, first served, as the pool and the token limit allow, and enter in chunks, so that a long one delays the others by
at most a chunk per step.

* A prompt is cut at multiples of ``chunk`` whatever else runs, and where reuse ends. A row's bits depend on whether it
  is computed alone or among others of its own sequence, so this keeps the answer independent of the load.
* A new sequence is admitted when the pool has room for everything it brings, plus one block for each that runs. If the
  pool runs out all the same, the youngest is preempted, goes to the head of the queue and is computed again later.
* Nothing can starve. ``chunk + max_batch_size <= max_num_tokens``, so every step has room for a chunk of the oldest
  prompt. Nobody overtakes, and the oldest is never preempted for another, so it ends, and then another is the oldest.

Pure: no clock, no thread, no model.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

from nvlm_trt.embedded.pool import Pool
from nvlm_trt.embedded.sequence import Sequence
from nvlm_trt.errors import OverloadedError, RequestError, UsageError

__all__ = ["Chunk", "Limits", "Scheduler", "Step"]


@dataclass(frozen=True, slots=True)
class Limits:
    """``max_num_tokens`` bounds a step's rows; ``chunk`` bounds the part of a prompt that runs at once, and is lowered
    where tokens are few.

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

    def chunk_for(self, block_size: int) -> int:
        """The largest chunk that is a multiple of the block or divides it, so that no block is computed in two ways."""
        if self.chunk >= block_size:
            return self.chunk - self.chunk % block_size
        return next(size for size in range(self.chunk, 0, -1) if block_size % size == 0)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Prompt ids ``start`` to ``stop`` of a sequence; ``last`` where a token follows."""

    sequence: Sequence
    start: int
    stop: int
    last: bool


@dataclass(frozen=True, slots=True)
class Step:
    """To be run in this order: one token for each of ``decoding``, then the chunks."""

    decoding: list[Sequence]
    chunks: list[Chunk]

    @property
    def num_rows(self) -> int:
        return len(self.decoding) + sum(chunk.stop - chunk.start for chunk in self.chunks)


class Scheduler:
    """``plan`` assumes that its step will be run: run it, then plan again."""

    def __init__(self, limits: Limits, pool: Pool) -> None:
        self.limits, self.pool = limits, pool
        self.chunk = limits.chunk_for(pool.block_size)
        self.waiting: deque[Sequence] = deque()
        # Oldest first, both: who waits came later than who runs.
        self.decoding: list[Sequence] = []
        self.prefilling: Sequence | None = None
        self.counts: Counter[str] = Counter()

    @property
    def num_running(self) -> int:
        return len(self.decoding) + (self.prefilling is not None)

    @property
    def idle(self) -> bool:
        return not (self.decoding or self.prefilling or self.waiting)

    def sequences(self) -> list[Sequence]:
        """All sequences: generating, half done, waiting."""
        return [*self.decoding, *([self.prefilling] if self.prefilling else []), *self.waiting]

    def add(self, sequences: list[Sequence]) -> None:
        """Add all or none. Raises ``OverloadedError`` E-BUSY-QUEUE when more would wait than may, ``RequestError``
        E-PARAM-RANGE when that will never be otherwise.
        """
        if len(sequences) > self.limits.max_waiting:
            raise RequestError(
                "E-PARAM-RANGE",
                f"num_return_sequences is {len(sequences)}; the queue holds {self.limits.max_waiting}.",
                "Ask for fewer.",
            )
        if len(self.waiting) + len(sequences) > self.limits.max_waiting:
            raise OverloadedError(
                "E-BUSY-QUEUE", f"{len(self.waiting)} requests are waiting already.", "Send it again in a moment."
            )
        self.waiting.extend(sequences)

    def plan(self) -> Step:
        self._make_room()
        decoding, chunks = self.pool.in_order(self.decoding), []
        budget = self.limits.max_num_tokens - len(decoding)
        if decoding:
            budget = min(budget, self.chunk)
        while sequence := self._next_prompt():
            start = sequence.cached
            stop = min(start - start % self.chunk + self.chunk, sequence.prompt_length)
            if stop - start > budget:
                break
            budget -= stop - start
            sequence.cached = stop
            chunks.append(Chunk(sequence, start, stop, not sequence.in_prompt))
            if not sequence.in_prompt:
                self.decoding.append(sequence)
                self.prefilling = None
        self.counts["prefill_tokens"] += sum(chunk.stop - chunk.start for chunk in chunks)
        return Step(decoding, chunks)

    def finish(self, sequence: Sequence) -> None:
        """Forget a sequence, whatever its state."""
        if sequence.place is None:
            self.waiting.remove(sequence)
            return
        if sequence is self.prefilling:
            self.prefilling = None
        else:
            self.decoding.remove(sequence)
        self.pool.release(sequence)

    def clear(self) -> None:
        """Forget every sequence and leave the pool as it is: it is not used again."""
        self.waiting.clear()
        self.decoding.clear()
        self.prefilling = None

    def _make_room(self) -> None:
        served = 0
        while served < len(self.decoding):
            if self.pool.grow(self.decoding[served]):
                served += 1
                continue
            youngest = self.prefilling or self.decoding[-1]
            self.finish(youngest)
            youngest.cached = 0
            self.waiting.appendleft(youngest)
            self.counts["preemptions"] += 1

    def _next_prompt(self) -> Sequence | None:
        if self.prefilling is None and self.waiting and len(self.decoding) < self.limits.max_batch_size:
            first = self.waiting[0]
            if self.pool.admit(first, spare=len(self.decoding)):
                self.prefilling = self.waiting.popleft()
                self.counts["prompt_tokens"] += first.prompt_length
                self.counts["reused_tokens"] += first.cached
        return self.prefilling
