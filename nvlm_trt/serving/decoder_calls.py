"""The open requests of the ``tensorrt_llm`` model in the embedded decoder, free of Triton.

A request is answered through its ``Reply``, from an ``Outbox``'s thread. It can end early in two ways. Its own client
goes away; Triton does not report that, so a few requests at a time are asked every ``poll_s`` seconds. Or a second
request arrives with the same id and ``stop`` set, which is the only way to end one that came through an ensemble. A
stop always gets an empty answer, even if there was nothing to end: the request may have ended by itself a moment
before.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from nvlm_trt.embedded.request import DecoderEngine, Emission, FinishReason
from nvlm_trt.errors import CancelledError, NvlmError, RequestError, ServerError
from nvlm_trt.serving.decoder_record import DecoderRecord
from nvlm_trt.serving.decoder_tensors import DecoderCall, asks_to_stop, read_call, write_tensors
from nvlm_trt.serving.outbox import Outbox

__all__ = ["DecoderCalls", "Reply"]


class Reply(Protocol):
    """The way back to one request's client. ``final`` ends it; nothing may be sent afterwards."""

    def send(self, tensors: Mapping[str, NDArray[Any]], *, final: bool) -> None: ...

    def fail(self, error: NvlmError) -> None:
        """Send an error; final."""

    def end(self) -> None:
        """Final, without an answer."""

    def is_cancelled(self) -> bool: ...


# Each question crosses to the server's process and back, on the engine's cores.
_ASKED_AT_ONCE = 8
_BROKEN_OFF = (FinishReason.CANCELLED, FinishReason.ERROR)


@dataclass(slots=True, eq=False)
class _Open:
    """One request in the engine: its listener, and the outbox's recipient. ``held`` is what a request that does not
    stream has so far, of each of its sequences, and ``log_probs`` what has been sent of each; ``unfinished`` of them
    still generate, and ``untold`` have not been sent their end.
    """

    client_id: str
    engine_id: str
    call: DecoderCall
    reply: Reply
    owner: DecoderCalls
    unfinished: int
    untold: int
    begun: set[int] = field(default_factory=set)
    held: dict[int, list[Emission]] = field(default_factory=lambda: defaultdict(list))
    log_probs: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    record: DecoderRecord = field(init=False)

    def __post_init__(self) -> None:
        request = self.call.request
        self.record = DecoderRecord(
            self.client_id, request.input_ids.size, request.num_return_sequences, time.monotonic()
        )

    def begin(self) -> None:
        """From the engine's thread."""
        self.record.begun_s = time.monotonic()

    def __call__(self, emission: Emission) -> None:
        """From the engine's thread."""
        if not self.unfinished:
            return
        index, ends = emission.sequence_index, emission.finish is not None
        self._note(emission)
        if ends:
            # A request that breaks off does so as a whole: its other sequences have nobody to go to.
            self.unfinished = 0 if emission.finish in _BROKEN_OFF else self.unfinished - 1
            if not self.unfinished:
                self.owner.unsent.add(self)
                self.owner.forget(self)
                self.owner.ended.append(self.record)
        if not self.call.streaming:
            self.held[index].append(emission)
            if not ends:
                return
            emission = _together(self.held[index])
        self.owner.outbox.post(self, emission, urgent=ends or index not in self.begun)
        self.begun.add(index)

    def deliver(self, emissions: Sequence[Emission]) -> None:
        """One response per sequence; two where one ends by itself, because postprocessing recognises an end by a
        response without tokens."""
        over = True
        try:
            self._deliver(emissions)
            over = not self.untold or emissions[-1].finish in _BROKEN_OFF
        finally:
            if over:
                self.owner.unsent.discard(self)

    def _deliver(self, emissions: Sequence[Emission]) -> None:
        news: dict[int, list[Emission]] = defaultdict(list)
        for emission in emissions:
            if emission.finish not in _BROKEN_OFF:
                news[emission.sequence_index].append(emission)
        for of_sequence in news.values():
            made = _together(of_sequence)
            if made.tokens and not of_sequence[-1].tokens and self.call.streaming:
                self._send(made._replace(finish=None))
                made = of_sequence[-1]
            self._send(made)
        if emissions[-1].finish in _BROKEN_OFF:
            self.reply.fail(self.owner.reason(emissions[-1]))

    def _note(self, emission: Emission) -> None:
        record = self.record
        record.generated_tokens += len(emission.tokens)
        if record.first_s is None and emission.tokens:
            record.first_s = time.monotonic()
        if emission.finish is not None:
            record.finish, record.ended_s = emission.finish, time.monotonic()

    def _send(self, emission: Emission) -> None:
        self.untold -= emission.finish is not None
        log_probs = self.log_probs[emission.sequence_index]
        log_probs += emission.log_probs
        self.reply.send(write_tensors(self.call, emission, log_probs), final=not self.untold)


class DecoderCalls:
    """Owns ``engine``. All methods may be called from any thread."""

    def __init__(
        self,
        engine: DecoderEngine,
        observe: Callable[[Mapping[str, Any]], None] = lambda _: None,
        tell: Callable[[DecoderRecord], None] = lambda _: None,
        check_going: Callable[[], None] = lambda: None,
        poll_s: float = 0.1,
    ) -> None:
        """Every ``poll_s`` seconds ``observe`` gets the engine's ``metrics()`` and how many requests it is done with
        while their last tokens are still ``unsent``, and ``tell`` each request that ended meanwhile; neither holds up
        the engine's thread. ``check_going`` raises ``CancelledError`` once the server ends
        its requests; those cancelled from then on fail with that.
        """
        self._engine = engine
        self._observe = observe
        self._tell = tell
        self._check_going = check_going
        self.ended: deque[DecoderRecord] = deque()
        self.unsent: set[_Open] = set()
        self._poll_s = poll_s
        self._open: dict[str, _Open] = {}
        self._by_client_id: dict[str, _Open] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._closing = threading.Event()
        self.outbox = Outbox()
        self._watcher = threading.Thread(target=self._watch, name="decoder-watch", daemon=True)
        self._watcher.start()

    def take(
        self, client_id: str, tensors: Mapping[str, NDArray[Any]], reply: Reply, trace: Mapping[str, str] | None = None
    ) -> None:
        """Answer one request through ``reply``, now or later. If something is wrong with it, raises and answers
        nothing.

        ``trace`` comes back in its record. Raises ``RequestError`` (those of ``read_call``; E-PARAM-ID for an id that
        is in use), ``OverloadedError``.
        """
        if asks_to_stop(tensors):
            if not client_id:
                raise RequestError("E-PARAM-ID", "A stop request needs the id of what to stop.", 'Add "id".')
            self.stop(client_id)
            reply.end()
            return
        engine_id = f"{next(self._numbers)}"
        call = read_call(tensors, engine_id)
        count = call.request.num_return_sequences
        entry = _Open(client_id, engine_id, call, reply, self, unfinished=count, untold=count)
        entry.record.trace = trace or {}
        with self._lock:
            if client_id in self._by_client_id:
                raise RequestError(
                    "E-PARAM-ID", "The request's id belongs to a request that is still open.", "Give each its own id."
                )
            self._open[engine_id] = entry
            if client_id:
                self._by_client_id[client_id] = entry
        try:
            self._engine.submit(entry.call.request, entry, entry.begin)
        except BaseException:
            self.forget(entry)
            raise

    def stop(self, client_id: str) -> None:
        with self._lock:
            entry = self._by_client_id.get(client_id)
        if entry:
            self._engine.cancel(entry.engine_id)

    def forget(self, entry: _Open) -> None:
        with self._lock:
            self._open.pop(entry.engine_id, None)
            if self._by_client_id.get(entry.client_id) is entry:
                del self._by_client_id[entry.client_id]

    def reason(self, last: Emission) -> NvlmError:
        """Why a request broke off, from its last emission."""
        if last.finish is not FinishReason.CANCELLED:
            return last.error or ServerError("E-SERVER-INTERNAL", "The decoder failed.", "The server's log says why.")
        try:
            self._check_going()
        except CancelledError as error:
            return error
        return last.error or CancelledError("E-CANCEL-STOPPED", "The request was stopped before its end.")

    def close(self, drain_s: float = 0) -> None:
        """Close the engine, which ends every open request, after ``drain_s`` seconds if need be; wait until each has
        been told."""
        self._engine.close(drain_s)
        self._closing.set()
        self._watcher.join()
        self.outbox.close()

    def _watch(self) -> None:
        unasked: deque[_Open] = deque()
        while not self._closing.wait(self._poll_s):
            with self._lock:
                unasked = unasked or deque(self._open.values())
            for _ in range(min(_ASKED_AT_ONCE, len(unasked))):
                entry = unasked.popleft()
                if entry.reply.is_cancelled():
                    self._engine.cancel(entry.engine_id)
            self._look()
        self._look()

    def _look(self) -> None:
        while self.ended:
            self._tell(self.ended.popleft())
        self._observe({**self._engine.metrics(), "unsent": len(self.unsent)})


def _together(emissions: Sequence[Emission]) -> Emission:
    """All emissions of one sequence in one, which ends as the last does."""
    if len(emissions) == 1:
        return emissions[0]
    return emissions[-1]._replace(
        tokens=tuple(token for emission in emissions for token in emission.tokens),
        log_probs=tuple(value for emission in emissions for value in emission.log_probs),
    )
