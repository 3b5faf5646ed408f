"""Requests of the ``tensorrt_llm`` model that are open in the embedded decoder, free of Triton.

A request is answered through its ``Reply``, from the engine's thread. It ends early in two ways: its own client goes
away, which is looked for every ``poll_s`` seconds because Triton tells nobody, or a second request with the same id and
``stop`` set arrives, which is the only way to end one that came through an ensemble. A stop is answered with nothing,
also when there was nothing to end: it may have ended by itself a moment before.
"""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from nvlm_trt.embedded.request import DecoderEngine, Emission, FinishReason
from nvlm_trt.errors import CancelledError, NvlmError, RequestError, ServerError
from nvlm_trt.serving.decoder_tensors import DecoderCall, asks_to_stop, read_call, write_tensors

__all__ = ["DecoderCalls", "Reply"]


class Reply(Protocol):
    """The way back to one request's client. ``final`` ends it; nothing may be sent afterwards."""

    def send(self, tensors: Mapping[str, NDArray[Any]], *, final: bool) -> None: ...

    def fail(self, error: NvlmError) -> None:
        """Send an error; final."""

    def end(self) -> None:
        """Final, without an answer."""

    def is_cancelled(self) -> bool: ...


_NOTHING = Emission(())


@dataclass(slots=True)
class _Open:
    """One request in the engine, whose listener it is. ``held`` is what a request that does not stream has so far, of
    each of its sequences; ``unfinished`` of them still generate.
    """

    client_id: str
    engine_id: str
    call: DecoderCall
    reply: Reply
    owner: DecoderCalls
    unfinished: int
    cum_log_probs: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    held: dict[int, Emission] = field(default_factory=dict)

    def __call__(self, emission: Emission) -> None:
        if not self.unfinished:
            return
        if emission.finish in (FinishReason.CANCELLED, FinishReason.ERROR):
            # The end of the whole request: its other sequences have nobody to go to.
            self.unfinished = 0
            self.owner.forget(self)
            self.reply.fail(emission.error or _ended(emission.finish))
            return
        if emission.finish is not None:
            self.unfinished -= 1
            if not self.unfinished:
                self.owner.forget(self)
        index = emission.sequence_index
        self.cum_log_probs[index] += sum(emission.log_probs)
        if not self.call.streaming:
            held = self.held.get(index, _NOTHING)
            emission = emission._replace(
                tokens=held.tokens + emission.tokens, log_probs=held.log_probs + emission.log_probs
            )
            self.held[index] = emission
        if self.call.streaming or emission.finish is not None:
            tensors = write_tensors(self.call, emission, self.cum_log_probs[index])
            self.reply.send(tensors, final=not self.unfinished)


class DecoderCalls:
    """Owns ``engine``. All methods may be called from any thread."""

    def __init__(
        self, engine: DecoderEngine, observe: Callable[[Mapping[str, Any]], None] = lambda _: None, poll_s: float = 0.1
    ) -> None:
        """``observe`` is given the engine's ``metrics()`` every ``poll_s`` seconds."""
        self._engine = engine
        self._observe = observe
        self._poll_s = poll_s
        self._open: dict[str, _Open] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="decoder-watch", daemon=True)
        self._watcher.start()

    def take(self, client_id: str, tensors: Mapping[str, NDArray[Any]], reply: Reply) -> None:
        """Answer one request through ``reply``, now or later. Raises what is wrong with it, and answers nothing then.

        Raises ``RequestError`` (those of ``read_call``; E-PARAM-ID for an id that is in use), ``OverloadedError``.
        """
        if asks_to_stop(tensors):
            if not client_id:
                raise RequestError("E-PARAM-ID", "A stop request needs the id of what to stop.", 'Add "id".')
            self.stop(client_id)
            reply.end()
            return
        engine_id = f"{next(self._numbers)}"
        call = read_call(tensors, engine_id)
        entry = _Open(client_id, engine_id, call, reply, self, call.request.num_return_sequences)
        with self._lock:
            if client_id and any(other.client_id == client_id for other in self._open.values()):
                raise RequestError(
                    "E-PARAM-ID", "The request's id belongs to a request that is still open.", "Give each its own id."
                )
            self._open[engine_id] = entry
        try:
            self._engine.submit(entry.call.request, entry)
        except BaseException:
            self.forget(entry)
            raise

    def stop(self, client_id: str) -> None:
        with self._lock:
            ids = [entry.engine_id for entry in self._open.values() if entry.client_id == client_id]
        for engine_id in ids:
            self._engine.cancel(engine_id)

    def forget(self, entry: _Open) -> None:
        with self._lock:
            self._open.pop(entry.engine_id, None)

    def close(self, drain_s: float = 0) -> None:
        """Close the engine, which ends every open request, after ``drain_s`` seconds if need be."""
        self._engine.close(drain_s)
        self._closing.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._closing.wait(self._poll_s):
            with self._lock:
                entries = list(self._open.values())
            for entry in entries:
                if entry.reply.is_cancelled():
                    self._engine.cancel(entry.engine_id)
            self._observe(self._engine.metrics())


def _ended(finish: FinishReason) -> NvlmError:
    if finish is FinishReason.CANCELLED:
        return CancelledError("E-CANCEL-STOPPED", "The request was stopped before its end.")
    return ServerError("E-SERVER-INTERNAL", "The decoder failed.", "The server's log says why.")
