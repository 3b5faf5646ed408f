"""What can be wrong with a measurement's input, as errors of our tree."""

from __future__ import annotations

from nvlm_trt.errors import UsageError

__all__ = ["bad_mix", "bad_result", "bad_trace"]


def bad_mix(name: str, why: str) -> UsageError:
    return UsageError("E-LOAD-MIX", f"{name} is not a mix of requests: {why}.", "docs/latency.md shows one.")


def bad_trace(name: str, line: int, why: str) -> UsageError:
    return UsageError("E-LOAD-TRACE", f"{name}, line {line}: {why}.", "docs/latency.md says what a line holds.")


def bad_result(name: str, why: str) -> UsageError:
    what = f"{name} is not a latency measurement of this version: {why}."
    return UsageError("E-LOAD-RESULT", what, "Measure again: python calibration/latency.py run")
