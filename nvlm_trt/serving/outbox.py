"""Sends emissions out of the engine, without ever spending more on sending tokens than on making them.

A response is expensive: Triton, the detokeniser's process and the client handle each one, all on the cores that the
engine runs on, and together they take several times what a small model's token takes. So a thread of its own sends, and
limits its share of the time. In each round every request with news gets one response, with every token that came since
the last. Then the thread pauses until the round's cost, in its own processor time, is at most ``share`` of the time
that passed, times the cores. A request's first and last news do not wait, but count.

The rule has no sizes to choose. While tokens come more slowly than the share pays for, each leaves at once, alone.
Under load a response carries more of them, and the time to first token stays what it was.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from nvlm_trt.embedded.request import Emission

__all__ = ["Outbox", "Recipient"]

# Of all cores. The server, the detokeniser and the client pay five times what this thread does for a response
# (docs/measurements/serving.md): telling takes at most some 12 % of the machine.
SHARE = 0.02

_log = logging.getLogger(__name__)


class Recipient(Protocol):
    """One request's way out. Hashable by identity."""

    def deliver(self, emissions: Sequence[Emission]) -> None:
        """Send the news, in order; called from the outbox's thread, never twice at once."""


class Outbox:
    """``post`` may be called from any thread, and costs an append. Each recipient gets its emissions in order.
    ``cores`` None means those that the process may use.
    """

    def __init__(self, share: float = SHARE, cores: int | None = None) -> None:
        self._pause_for_work = max(0.0, 1 / (share * (cores or len(os.sched_getaffinity(0)))) - 1)
        # Appending to a deque is atomic; a lock here would be taken for each token.
        self._posted: deque[tuple[Recipient, Emission, bool]] = deque()
        self._wake = threading.Event()
        self._resting = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="decoder-outbox", daemon=True)
        self._thread.start()

    def post(self, recipient: Recipient, emission: Emission, *, urgent: bool) -> None:
        self._posted.append((recipient, emission, urgent))
        if urgent or self._resting:
            self._wake.set()

    def close(self) -> None:
        """Deliver everything posted before, and end the thread."""
        self._closing = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        unsent: dict[Recipient, list[Emission]] = {}
        next_round_s = 0.0
        closing = False
        while not closing or self._posted:
            closing = self._closing  # read before what was posted: whatever came before it is still sent
            urgent = self._collect(unsent)
            due = list(unsent) if closing or time.monotonic() >= next_round_s else urgent
            began = time.thread_time()
            for recipient in due:
                _deliver(recipient, unsent.pop(recipient))
            pause_s = (time.thread_time() - began) * self._pause_for_work
            next_round_s = max(next_round_s, time.monotonic()) + pause_s
            if unsent:
                self._wake.wait(max(0.0, next_round_s - time.monotonic()))
            elif not closing:
                self._rest()
            self._wake.clear()

    def _collect(self, unsent: dict[Recipient, list[Emission]]) -> list[Recipient]:
        """Move what was posted to ``unsent``; returns those whose news does not wait."""
        urgent: dict[Recipient, None] = {}
        while self._posted:
            recipient, emission, hurried = self._posted.popleft()
            unsent.setdefault(recipient, []).append(emission)
            if hurried:
                urgent[recipient] = None
        return list(urgent)

    def _rest(self) -> None:
        """Wait without a limit. A poster looks at ``_resting`` after it has posted; this thread looks for posts after
        setting it."""
        self._resting = True
        if not self._posted and not self._closing:
            self._wake.wait()
        self._resting = False


def _deliver(recipient: Recipient, emissions: Sequence[Emission]) -> None:
    try:
        recipient.deliver(emissions)
    except Exception:
        # One client's trouble; the others' answers go on.
        _log.exception("An answer could not be sent.")
