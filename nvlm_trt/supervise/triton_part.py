"""Triton as a part of the service, asked by a one-token question through all its models."""

from __future__ import annotations

import threading
from contextlib import suppress

from nvlm_trt.deploy.staged_triton import StagedTriton

__all__ = ["TritonPart"]


class TritonPart:
    """A ``Part``."""

    name = "triton"

    def __init__(self, triton: StagedTriton, start_timeout_s: float, ask_timeout_s: float) -> None:
        self._triton = triton
        self._start_timeout_s = start_timeout_s
        self._ask_timeout_s = ask_timeout_s

    def start(self, abort: threading.Event) -> None:
        self._triton.start(self._start_timeout_s, abort)

    def how_it_ended(self) -> str | None:
        status = self._triton.exit_status
        if status is None:
            model = self._triton.dead_model
            return model and f"The process of the model {model} has ended."
        return f"Triton was ended by signal {-status}." if status < 0 else f"Triton ended with status {status}."

    def ask(self) -> None:
        self._triton.ask(self._ask_timeout_s)

    def progress(self) -> float:
        with suppress(OSError, ValueError):
            return self._triton.figures().answered
        return 0.0

    def end(self) -> None:
        self._triton.kill()
