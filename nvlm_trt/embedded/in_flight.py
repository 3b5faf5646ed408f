"""In-flight batching: a scheduler over a runner, in a thread of its own.

``submit`` and ``cancel`` only write to the scheduler's books under a lock; everything else happens in the engine's
thread, which plans a step under the lock, runs it without, closes the books, and then tells the listeners. So a
request that ends has given back its slot before its listener hears of it, a listener may call the engine, and a slow
one delays the next step but blocks nobody's ``submit``. Whatever ends the thread ends every open request with an
emission: silence is not an answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from typing import Any

import numpy as np

from nvlm_trt.embedded.request import Emission, FinishReason, GenerationRequest, Listener
from nvlm_trt.embedded.runner import SlotRunner
from nvlm_trt.embedded.sampler import sample
from nvlm_trt.embedded.scheduler import Limits, Scheduler, Step
from nvlm_trt.embedded.sequence import Sequence, check_request
from nvlm_trt.errors import ArtefactError, CancelledError

__all__ = ["InFlightEngine"]

_log = logging.getLogger(__name__)


class InFlightEngine:
    """A ``DecoderEngine`` over any runner. ``max_seq_len`` counts prompt and answer, in positions."""

    def __init__(self, runner: SlotRunner, limits: Limits, max_seq_len: int) -> None:
        self._runner = runner
        self._max_seq_len = max_seq_len
        self._limits = limits
        self._scheduler = Scheduler(limits)
        self._changed = threading.Condition()
        self._closing = False
        self._cancelling = False
        self._untold: deque[tuple[Sequence, Emission]] = deque()
        self._fault: ArtefactError | None = None
        self._counts: Counter[str] = Counter()
        self._model_s = self._step_s = 0.0
        self._thread = threading.Thread(target=self._run, name="nvlm-decoder", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest, listener: Listener) -> None:
        """Raises ``RequestError`` E-PROMPT-*, ``OverloadedError`` E-BUSY-QUEUE, and ``ArtefactError`` E-ENGINE-FAULT or
        E-ENGINE-CLOSED when the engine runs no more.
        """
        check_request(
            request,
            vocab_size=self._runner.vocab_size,
            hidden_size=self._runner.hidden_size,
            max_seq_len=self._max_seq_len,
        )
        with self._changed:
            if self._fault:
                raise self._fault
            if self._closing:
                raise ArtefactError("E-ENGINE-CLOSED", "The decoder engine has been closed.", "Start it again.")
            self._scheduler.add(Sequence(request, listener))
            self._changed.notify()

    def cancel(self, request_id: str) -> int:
        with self._changed:
            open_ones = (sequence for sequence in self._scheduler.sequences() if not sequence.cancelled)
            found = [sequence for sequence in open_ones if sequence.request.request_id == request_id]
            for sequence in found:
                sequence.cancelled = self._cancelling = True
            self._changed.notify()
            return len(found)

    def metrics(self) -> dict[str, Any]:
        """Requests by state, and totals since the start; ``step_s`` less ``model_s`` is the engine's own time."""
        with self._changed:
            running = self._scheduler.num_running
            return {
                "running": running,
                "waiting": len(self._scheduler.waiting),
                "free_slots": self._limits.max_batch_size - running,
                "steps": self._counts["steps"],
                "prefill_tokens": self._counts["prefill_tokens"],
                "generated_tokens": self._counts["generated_tokens"],
                "step_s": self._step_s,
                "model_s": self._model_s,
            }

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        ending = _CLOSED
        try:
            while self._wait_for_work():
                started = time.perf_counter()
                self._step()
                self._step_s += time.perf_counter() - started
        except Exception:
            _log.exception("The decoder engine stopped.")
            fault = ArtefactError("E-ENGINE-FAULT", "The decoder engine has failed.", "Restart it; its log says why.")
            ending = Emission((), finish=FinishReason.ERROR, error=fault)
            self._fault = fault
        with self._changed:
            self._closing = True
            left = dict.fromkeys([*(sequence for sequence, _ in self._untold), *self._scheduler.sequences()])
            self._untold.clear()
            self._untold.extend((sequence, ending) for sequence in left)
            self._scheduler = Scheduler(self._limits)
        self._tell()

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not self._closing and self._scheduler.idle:
                self._changed.wait()
            return not self._closing

    def _step(self) -> None:
        with self._changed:
            if self._cancelling:
                gone = [sequence for sequence in self._scheduler.sequences() if sequence.cancelled]
                self._cancelling = False
                self._settle([(sequence, _CANCELLED) for sequence in gone])
            step = self._scheduler.plan()
        self._tell()
        emissions = self._generate(step)
        with self._changed:
            self._settle(emissions)
            self._counts["steps"] += step.num_rows > 0
            self._counts["prefill_tokens"] += step.num_rows - len(step.decoding)
            self._counts["generated_tokens"] += sum(len(emission.tokens) for _, emission in emissions)
        self._tell()

    def _generate(self, step: Step) -> list[tuple[Sequence, Emission]]:
        emissions: list[tuple[Sequence, Emission]] = []
        if step.decoding:
            lengths = np.array([sequence.cached for sequence in step.decoding], np.int32)
            newest = np.array([sequence.tokens[-1] for sequence in step.decoding], np.int32)
            started = time.perf_counter()
            logits = self._runner.decode(lengths, newest)
            self._model_s += time.perf_counter() - started
            emissions += _sampled(logits, step.decoding)
        for chunk in step.chunks:
            request = chunk.sequence.request
            ids = request.input_ids[chunk.start : chunk.stop]
            started = time.perf_counter()
            row = self._runner.prefill(chunk.slot, chunk.start, ids, request.prompt_table)
            self._model_s += time.perf_counter() - started
            if chunk.last:
                emissions += _sampled(row[np.newaxis], [chunk.sequence])
        return emissions

    def _settle(self, emissions: list[tuple[Sequence, Emission]]) -> None:
        """Free the slots of those that end. What has to be told is kept first, should this fail."""
        self._untold.extend(emissions)
        for sequence, emission in emissions:
            if emission.finish:
                for move in self._scheduler.finish(sequence):
                    self._runner.move(move.source, move.target, move.length)

    def _tell(self) -> None:
        while self._untold:
            sequence, emission = self._untold.popleft()
            try:
                sequence.listener(emission)
            except Exception:
                # Its own fault, not the engine's: the request ends, the others go on.
                _log.exception("The listener of request %s failed.", sequence.request.request_id)
                sequence.listener = _nobody
                sequence.cancelled = self._cancelling = True


def _sampled(logits: Any, sequences: list[Sequence]) -> list[tuple[Sequence, Emission]]:
    tokens, log_probs = sample(logits, sequences)
    return [
        (sequence, _emission(token, log_prob, sequence.accept(token)))
        for sequence, token, log_prob in zip(sequences, tokens, log_probs, strict=True)
    ]


def _emission(token: int, log_prob: tuple[float, ...], finish: FinishReason | None) -> Emission:
    return Emission((), finish=finish) if finish is FinishReason.END_ID else Emission((token,), log_prob, finish)


def _nobody(emission: Emission) -> None:
    pass


_CANCELLED = Emission(
    (), finish=FinishReason.CANCELLED, error=CancelledError("E-CANCEL-REQUEST", "The request was cancelled.")
)
_CLOSED = Emission(
    (), finish=FinishReason.CANCELLED, error=CancelledError("E-CANCEL-SHUTDOWN", "The decoder engine was closed.")
)
