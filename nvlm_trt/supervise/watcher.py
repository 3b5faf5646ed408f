"""The thread that keeps one part of the service alive: start it, ask it, end it when it is dead, pause, start again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import Enum

from nvlm_trt.deploy.staged_triton import BadStart, StartAborted
from nvlm_trt.errors import NvlmError, ServerError
from nvlm_trt.supervise.events import EventLog
from nvlm_trt.supervise.failures import Failures, RestartPolicy
from nvlm_trt.supervise.part import Part
from nvlm_trt.supervise.verdict import Suspicion, Verdict

__all__ = ["State", "Watcher"]

_LOOK_S = 0.05
_DOUBT_S = 0.25
_FRESH_S = 1.0


class State(Enum):
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    LEFT = "left alone"


class Watcher:
    """Begins with ``start``. ``ask_every_s`` is the time in seconds between two questions to a part that answers."""

    def __init__(
        self,
        part: Part,
        events: EventLog,
        policy: RestartPolicy,
        ask_every_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.part = part
        self.state = State.STARTING
        self.restarts = 0
        self.error: NvlmError | None = None
        self.bug: Exception | None = None
        """What ended the watching, as nothing of our own should."""
        self._events, self._policy, self._ask_every_s, self._clock = events, policy, ask_every_s, clock
        self._failures, self._suspicion = Failures(policy), Suspicion()
        self._answered_s = self._asked_s = -_FRESH_S
        self._doubt: NvlmError | None = None
        self._asking = threading.Lock()
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{part.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        """Raises an ``NvlmError`` unless the part answered within the last second or does so when asked now."""
        if self.state is not State.READY:
            raise self.error or ServerError(
                "E-SERVER-START", f"{self.part.name.capitalize()} is {self.state.value}.", "Wait."
            )
        # A part in doubt is already being asked again.
        error = self._doubt or self._ask(_FRESH_S)
        if error is not None:
            self._wake.set()
            raise error

    def leave(self) -> None:
        """Stop watching, whether the part is alive or dead. Once this returns, it is neither started nor ended."""
        self._stop.set()
        self._wake.set()
        if self.state is not State.READY:
            self.part.end()  # otherwise this would wait for a start that waits for its first answer
        if self._thread.is_alive():
            self._thread.join()
        self.state = State.LEFT

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._serve()
            except StartAborted:
                return
            except NvlmError as error:
                self.part.end()
                pause_s = self._judge_failure(error)
                if pause_s is None:
                    return
                self._stop.wait(pause_s)
                self.restarts += 1
            except Exception as bug:  # for whoever waits for this part, and would wait for ever
                self.part.end()
                self.bug, self.state = bug, State.FAILED
                return

    def _serve(self) -> None:
        """Start the part and watch it until it fails, which raises, or until ``leave``, which returns."""
        began_s = self._clock()
        self.part.start(self._stop)
        took_s = self._clock() - began_s
        self._failures.served()
        self._suspicion, self._doubt, self._answered_s = Suspicion(self.part.progress()), None, self._clock()
        self.state, self.error = State.READY, None
        self._events(self.part.name, "ready", f"ready after {took_s:.1f} s", seconds=round(took_s, 3))
        next_s = self._clock() + self._ask_every_s
        while not self._stop.is_set():
            ended = self.part.how_it_ended()
            if ended is not None:
                raise ServerError("E-SERVER-ENDED", ended, "Its log says why.")
            if self._wake.is_set() or self._clock() >= next_s:
                self._wake.clear()
                next_s = self._clock() + self._question()
            self._wake.wait(_LOOK_S)

    def _question(self) -> float:
        """Ask; returns the seconds to the next question. Raises the error that proves the part dead."""
        error = self._ask(0)
        verdict = self._suspicion.judge(error)
        if verdict is Verdict.DEAD:
            assert error is not None
            raise error
        return _DOUBT_S if verdict is Verdict.DOUBTED else self._ask_every_s

    def _ask(self, fresh_s: float) -> NvlmError | None:
        called_s = self._clock()
        with self._asking:
            if self._clock() - self._answered_s < fresh_s:
                return None
            if self._asked_s > called_s:  # by another thread, while this one waited for the lock
                return self._doubt
            self._asked_s = self._clock()
            try:
                self.part.ask()
            except NvlmError as failed:
                self._doubt = self._suspicion.excuse(failed, self.part.progress)
                if self._doubt is not None:
                    return self._doubt
            self._doubt, self._answered_s = None, self._clock()
            return None

    def _judge_failure(self, error: NvlmError) -> float | None:
        """The seconds until the next start; None, with the state set, if there will be none."""
        first, name = self.state is State.STARTING, self.part.name
        pause_s = self._failures.failed(self._clock())
        # An error of the very first start is final, unless it is of a kind that may not occur the next time.
        if first and not isinstance(error, BadStart):
            pause_s = None
        self.error = error
        if pause_s is not None:
            count = f"failure {self._failures.count} of {self._policy.limit}"
            text = f"{error}; starting again in {pause_s:g} s ({count} in {self._policy.window_s:g} s)"
            self._events(name, "failed", text, code=error.code, count=self._failures.count, pause_s=pause_s)
            self.state = self.state if first else State.RESTARTING
            return pause_s
        if not first:
            self.error = ServerError(
                "E-SERVER-GAVE-UP",
                f"{name.capitalize()} failed {self._failures.count} times within {self._policy.window_s:g} s, "
                f"the last time of: {error.what}",
                error.fix,
            )
        self._events(name, "gave up", str(self.error), code=self.error.code)
        self.state = State.FAILED
        return None
