"""What can be wrong with what a measurement is told to do."""

from __future__ import annotations

import pydantic

from nvlm_trt.errors import UsageError

__all__ = ["bad_mix", "bad_result", "bad_trace", "first_fault"]


def bad_mix(name: str, why: str) -> UsageError:
    return UsageError("E-LOAD-MIX", f"{name} is no mix of requests: {why}.", "docs/latency.md shows one.")


def bad_trace(name: str, line: int, why: str) -> UsageError:
    return UsageError("E-LOAD-TRACE", f"{name}, line {line}: {why}.", "docs/latency.md says what a line holds.")


def bad_result(name: str, why: str) -> UsageError:
    what = f"{name} is no latency measurement of this version: {why}."
    return UsageError("E-LOAD-RESULT", what, "Measure again: python calibration/latency.py run")


def first_fault(error: pydantic.ValidationError) -> str:
    """The first key that is wrong, and how."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ")  # pydantic's words in front of our own
    return f"{where}: {what}" if where else what
