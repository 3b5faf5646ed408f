"""What is wrong with a data set or with a run's files, as errors of our tree."""

from __future__ import annotations

from nvlm_trt.errors import UsageError

__all__ = ["bad_data", "bad_output", "missing_data", "mixed_runs"]


def bad_data(file: str, record: int, why: str) -> UsageError:
    """``record`` counts from 1."""
    return UsageError(
        "E-EVAL-DATA", f"{file}, record {record}: {why}.", "Correct the record, or fetch the data set again."
    )


def missing_data(what: str, fix: str) -> UsageError:
    return UsageError("E-EVAL-MISSING", what, fix)


def bad_output(file: str, line: int, why: str) -> UsageError:
    """``line`` counts from 1."""
    return UsageError("E-EVAL-OUTPUT", f"{file}, line {line}: {why}.", "Correct the line, or write to another place.")


def mixed_runs(what: str) -> UsageError:
    return UsageError("E-EVAL-MIXED", what, "Name another place with -o, or delete the files of the earlier run.")
