"""In-flight batching: a scheduler over a pool and its model, in a thread of its own.

``submit`` and ``cancel`` only write to the scheduler's books under a lock. Everything else happens in the engine's
thread, which plans a step under the lock, runs it without, and closes the books. Tokens are reported as the model gives
them, ends once the books are closed: a request that ends has returned its memory before its listener hears of it. A
listener may call the engine, and a slow one delays what comes next but blocks nobody's ``submit``. Whatever ends the
thread ends every open request with an emission: silence is not an answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from nvlm_trt.embedded.generation import Generation
from nvlm_trt.embedded.pool import Pool
from nvlm_trt.embedded.prefix import prefix_keys, reusable_blocks
from nvlm_trt.embedded.request import Emission, FinishReason, GenerationRequest, Listener
from nvlm_trt.embedded.scheduler import Limits, Scheduler
from nvlm_trt.embedded.sequence import Sequence, check_request
from nvlm_trt.errors import ArtefactError, CancelledError

__all__ = ["InFlightEngine"]

_log = logging.getLogger(__name__)


class InFlightEngine:
    """A ``DecoderEngine`` over any pool. ``max_seq_len`` counts prompt and answer, in positions; without
    ``reuse_prefixes`` every prompt is computed from its beginning.
    """

    def __init__(self, pool: Pool, limits: Limits, max_seq_len: int, reuse_prefixes: bool = True) -> None:
        self._pool, self._reuse_prefixes = pool, reuse_prefixes
        self._max_seq_len = min(max_seq_len, pool.capacity)
        self._scheduler, self._generation = Scheduler(limits, pool), Generation(pool)
        self._changed = threading.Condition()
        self._refusing = self._closing = False
        self._cancelling = False
        self._untold: deque[tuple[Sequence, Emission]] = deque()
        self._fault: ArtefactError | None = None
        self._counts: Counter[str] = Counter()
        self._step_s = 0.0
        self._thread = threading.Thread(target=self._run, name="nvlm-decoder", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest, listener: Listener, begun: Callable[[], None] | None = None) -> None:
        """Raises ``RequestError`` E-PROMPT-*, E-PARAM-RANGE, E-PARAM-SHAPE, ``OverloadedError`` E-BUSY-QUEUE, and
        ``ArtefactError`` E-ENGINE-FAULT or E-ENGINE-CLOSED when the engine no longer runs.
        """
        self._check_open()
        runner, block_size = self._pool.runner, self._pool.block_size
        check_request(
            request, vocab_size=runner.vocab_size, hidden_size=runner.hidden_size, max_seq_len=self._max_seq_len
        )
        keys = prefix_keys(request, runner.vocab_size, block_size) if self._reuse_prefixes else []
        reusable = reusable_blocks(len(request.input_ids), block_size, self._scheduler.chunk)
        count = request.num_return_sequences
        sequences = [
            Sequence(request, listener, keys, reusable, index, None if index else begun) for index in range(count)
        ]
        with self._changed:
            self._check_open()
            self._scheduler.add(sequences)
            self._changed.notify_all()

    def cancel(self, request_id: str) -> int:
        with self._changed:
            open_ones = (sequence for sequence in self._scheduler.sequences() if not sequence.cancelled)
            found = [sequence for sequence in open_ones if sequence.request.request_id == request_id]
            for sequence in found:
                sequence.cancelled = self._cancelling = True
            self._changed.notify_all()
            return len(found)

    def metrics(self) -> dict[str, Any]:
        """Requests by state, the pool's figures, and totals since the start.

        ``step_s`` minus ``model_s`` is the engine's own time. ``hit_rate`` is the share of the admitted
        ``prompt_tokens`` that were cached already, ``reused_tokens``; a request that was preempted and admitted again
        counts again.
        """
        with self._changed:
            counts = {**self._scheduler.counts, **self._counts}
            totals = {name: counts.get(name, 0) for name in _TOTALS}
            return {
                "healthy": not (self._fault or self._refusing) and getattr(self._pool.runner, "alive", True),
                "running": self._scheduler.num_running,
                "waiting": len(self._scheduler.waiting),
                **self._pool.figures(),
                **totals,
                "hit_rate": totals["reused_tokens"] / max(1, totals["prompt_tokens"]),
                "step_s": self._step_s,
                "model_s": self._generation.model_s,
            }

    def close(self, drain_s: float = 0) -> None:
        inside = threading.current_thread() is self._thread
        with self._changed:
            self._refusing = True
            if not inside:
                self._changed.wait_for(lambda: self._closing or self._scheduler.idle, drain_s)
            self._closing = True
            self._changed.notify_all()
        if not inside:
            self._thread.join()

    def _check_open(self) -> None:
        if self._fault:
            raise self._fault
        if self._refusing:
            raise ArtefactError("E-ENGINE-CLOSED", "The decoder engine has been closed.", "Start it again.")

    def _run(self) -> None:
        ending = _CLOSED
        try:
            while self._wait_for_work():
                started = time.perf_counter()
                self._step()
                self._step_s += time.perf_counter() - started
        except BaseException:
            _log.exception("The decoder engine stopped.")
            self._fault = ArtefactError("E-ENGINE-FAULT", "The decoder engine has failed.", "Restart it; see its log.")
            ending = Emission((), finish=FinishReason.ERROR, error=self._fault)
        with self._changed:
            self._closing = True
            left = dict.fromkeys([*(sequence for sequence, _ in self._untold), *self._scheduler.sequences()])
            self._untold.clear()
            self._untold.extend((sequence, ending) for sequence in left)
            self._scheduler.clear()
            self._changed.notify_all()
        self._tell()
        getattr(self._pool.runner, "close", _nothing)()

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not self._closing and self._scheduler.idle:
                self._changed.notify_all()
                self._changed.wait()
            return not self._closing

    def _step(self) -> None:
        with self._changed:
            if self._cancelling:
                self._cancelling = False
                gone = [sequence for sequence in self._scheduler.sequences() if sequence.cancelled]
                self._settle([(sequence, _CANCELLED) for sequence in gone])
            step = self._scheduler.plan()
        for chunk in step.chunks:
            if chunk.sequence.on_begin is not None:
                chunk.sequence.on_begin()
                chunk.sequence.on_begin = None
        self._tell()
        ends: list[tuple[Sequence, Emission]] = []
        generated = 0
        for emissions in self._generation.run(step):
            generated += sum(len(emission.tokens) for _, emission in emissions)
            self._untold.extend(one for one in emissions if not one[1].finish)
            ends += (one for one in emissions if one[1].finish)
            self._tell()
        with self._changed:
            self._settle(ends)
            self._counts["steps"] += step.num_rows > 0
            self._counts["generated_tokens"] += generated
        self._tell()

    def _settle(self, emissions: list[tuple[Sequence, Emission]]) -> None:
        """Free the memory of the sequences that end. What must be reported is kept first, should this fail."""
        self._untold.extend(emissions)
        for sequence, emission in emissions:
            if emission.finish:
                self._scheduler.finish(sequence)

    def _tell(self) -> None:
        while self._untold:
            sequence, emission = self._untold.popleft()
            try:
                sequence.listener(emission._replace(sequence_index=sequence.index) if sequence.index else emission)
            except Exception:
                # Its own fault, not the engine's: the request ends, the others go on.
                _log.exception("The listener of request %s failed.", sequence.request.request_id)
                sequence.listener = _nothing
                sequence.cancelled = self._cancelling = True


def _nothing(*_: object) -> None:
    pass


_TOTALS = ("steps", "prompt_tokens", "reused_tokens", "prefill_tokens", "generated_tokens", "preemptions")
_CANCELLED = Emission(
    (), finish=FinishReason.CANCELLED, error=CancelledError("E-CANCEL-REQUEST", "The request was cancelled.")
)
_CLOSED = Emission(
    (), finish=FinishReason.CANCELLED, error=CancelledError("E-CANCEL-SHUTDOWN", "The decoder engine was closed.")
)
