"""The whole service: Triton, and the gateway if there is one, from the start until nothing of it is left.

    starting ─► ready ◄─► restarting ─► failed
                  └─► draining ─► ended

To shut down, the service first refuses new questions, then lets the streams that have begun finish, then ends the rest
with an error. Only then does Triton get its SIGTERM, which freezes whatever still streams through an ensemble.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

from nvlm_trt.deploy.address import in_url
from nvlm_trt.deploy.staged_triton import StagedTriton
from nvlm_trt.errors import OverloadedError, ServerError
from nvlm_trt.supervise.events import EventLog
from nvlm_trt.supervise.failures import RestartPolicy
from nvlm_trt.supervise.gateway_part import GatewayPart
from nvlm_trt.supervise.part import Part
from nvlm_trt.supervise.readiness import ReadinessServer
from nvlm_trt.supervise.triton_part import TritonPart
from nvlm_trt.supervise.watcher import State, Watcher

__all__ = ["Supervisor"]

_LOOK_S = 0.1
# Triton must look idle for this long: between two models a request is counted in neither of them.
_IDLE_S = 0.5
_ENDING_S = 2.0


class Supervisor:
    """A context manager that starts when entered, and ends at once, without a drain, when left. It owns ``triton`` and
    ``gateway``. ``health`` is the host and port of the readiness server; the other numbers are seconds.

    Raises ``ServerError`` E-SERVER-PORT when entered.
    """

    def __init__(
        self,
        triton: StagedTriton,
        gateway: GatewayPart | None,
        events: EventLog,
        *,
        health: tuple[str, int],
        policy: RestartPolicy,
        ask_every_s: float,
        ask_timeout_s: float,
        start_timeout_s: float,
    ) -> None:
        self._triton, self._gateway, self._events = triton, gateway, events
        self._triton_part = TritonPart(triton, start_timeout_s, ask_timeout_s)
        parts: list[Part] = [self._triton_part, *([gateway] if gateway else [])]
        self._watchers = [Watcher(part, events, policy, ask_every_s) for part in parts]
        self._draining = threading.Event()
        self._answered = 0.0
        self._health = health
        self._readiness: ReadinessServer | None = None

    def __enter__(self) -> Supervisor:
        try:
            self._readiness = ReadinessServer(*self._health, self.check, self.state)
        except OSError:
            self.close()
            raise ServerError(
                "E-SERVER-PORT", f"The health port {self._health[1]} cannot be listened on.", "Choose another, or 0."
            ) from None
        for watcher in self._watchers:
            watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def health_url(self) -> str:
        host, port = self._health
        return f"http://{in_url(host)}:{port}/health"

    @property
    def ready(self) -> bool:
        """Whether every part serves. Raises what ``check_not_given_up`` raises."""
        self.check_not_given_up()
        return all(watcher.state is State.READY for watcher in self._watchers)

    def check_not_given_up(self) -> None:
        """Raises the ``NvlmError`` with which a part was given up, or the bug."""
        for watcher in self._watchers:
            if watcher.state is State.FAILED:
                self._triton.keep_log()
                ended = ServerError("E-SERVER-ENDED", "The server ended by itself.", "Start it again.")
                raise watcher.bug or watcher.error or ended

    def check(self) -> None:
        """Raises the ``NvlmError`` with which the service fails at this moment; E-BUSY-DRAINING once it shuts down."""
        if self._draining.is_set():
            raise OverloadedError("E-BUSY-DRAINING", "The server is shutting down.", "Ask another, or again later.")
        for watcher in self._watchers:
            watcher.check()

    def state(self) -> dict[str, Any]:
        """The state of each part, and how often it was restarted."""
        return {
            "parts": {watcher.part.name: watcher.state.value for watcher in self._watchers},
            "restarts": {watcher.part.name: watcher.restarts for watcher in self._watchers},
        }

    def drain(self, within_s: float, hurry: threading.Event) -> None:
        """Refuse new questions, give those that have begun ``within_s`` seconds, or until ``hurry`` is set, to be
        answered, and end the rest with errors.
        """
        self._draining.set()
        began_s = time.monotonic()
        with suppress(OSError):
            self._triton.refuse_new()
        for watcher in self._watchers:
            watcher.leave()
        if self._gateway:
            self._gateway.drain()
        finished = self._wait_idle(began_s + within_s, hurry)
        if not finished:
            with suppress(OSError):
                self._triton.end_streams()
            self._wait_idle(time.monotonic() + _ENDING_S, threading.Event())
        waited_s = time.monotonic() - began_s
        text = f"{'every answer was finished' if finished else 'answers were cut short'} after {waited_s:.1f} s"
        self._events("server", "drained", text, finished=finished, seconds=round(waited_s, 3))
        if self._gateway:
            self._gateway.end()
        if finished:
            self._triton.stop()

    def close(self) -> None:
        """End everything at once and remove whatever is left. May be called again."""
        self._draining.set()
        for watcher in self._watchers:
            watcher.leave()
        if self._gateway:
            self._gateway.end()
        self._triton.close()
        if self._readiness is not None:
            self._readiness.close()
            self._readiness = None

    def _wait_idle(self, until_s: float, hurry: threading.Event) -> bool:
        """Whether all that was begun is over, before ``until_s``, and Triton has not died of it."""
        served = self._triton_part.how_it_ended() is None
        idle_since_s: float | None = None
        while (now_s := time.monotonic()) < until_s and not hurry.wait(_LOOK_S):
            if served and (how := self._triton_part.how_it_ended()):
                self._events("triton", "ended", how)
                return False
            if self._busy():
                idle_since_s = None
            else:
                idle_since_s = idle_since_s or now_s
                if now_s - idle_since_s >= _IDLE_S:
                    return True
        return False

    def _busy(self) -> bool:
        if self._gateway is not None and self._gateway.how_it_ended() is None:
            return True
        try:
            figures = self._triton.figures()
            # A decoder that is done is ahead of its clients: the last pieces may still be on their way to them.
            moved, self._answered = figures.answered > self._answered, figures.answered
            return moved or figures.open > 0
        except (OSError, ValueError):
            return self._triton.running
