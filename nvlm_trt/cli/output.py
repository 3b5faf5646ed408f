"""Where words go: results to stdout, everything else to stderr, and ``--json`` and ``--quiet`` alike everywhere."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from nvlm_trt.errors import NvlmError, UsageError

__all__ = ["Output", "dry_run_option", "output_options", "shown_bytes", "timeout_option"]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Output:
    """How this run speaks."""

    as_json: bool
    quiet: bool

    def result(self, data: Mapping[str, Any], text: str) -> None:
        """The one result: JSON or text on stdout. Raises ``UsageError`` E-USAGE-STDOUT."""
        _print(json.dumps(data, indent=2, ensure_ascii=False) if self.as_json else text)

    def note(self, text: str) -> None:
        """Something to know while waiting, on stderr."""
        if not self.quiet:
            click.echo(text, err=True)


def output_options(command: F) -> F:
    """Adds ``--json`` and ``--quiet``; the command gets an ``Output`` as ``output``.

    With ``--json`` an error is on stdout as JSON too, beside its line on stderr.
    """

    @click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
    @click.option("--quiet", "-q", is_flag=True, help="Print nothing on stderr but errors.")
    @functools.wraps(command)
    def wrapped(*args: Any, as_json: bool, quiet: bool, **kwargs: Any) -> Any:
        try:
            return command(*args, output=Output(as_json, quiet), **kwargs)
        except NvlmError as error:
            if as_json:
                told = {"code": error.code, "what": error.what, "fix": error.fix}
                _print(json.dumps({"error": told}, indent=2, ensure_ascii=False))
            raise

    return wrapped  # type: ignore[return-value]


def _print(text: str) -> None:
    try:
        click.echo(text)
    except BrokenPipeError:
        raise  # a reader that has seen enough; click ends quietly
    except OSError as error:
        # What stdout still holds would fail once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        what = f"The result cannot be written: {error.strerror}."
        raise UsageError("E-USAGE-STDOUT", what, "Free some space, or write it elsewhere.") from None


def timeout_option(default_s: float) -> Callable[[F], F]:
    """Adds ``--timeout``, which the command gets as ``timeout_s``."""
    return click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(0, min_open=True),
        default=default_s,
        show_default=True,
        help="Seconds to wait for a sign of life.",
    )


def dry_run_option(command: F) -> F:
    help_text = "Say what would be done; write nothing, start nothing."
    return click.option("--dry-run", is_flag=True, help=help_text)(command)


def shown_bytes(count: float) -> str:
    """Decimal units: 1 GB is 10^9 bytes."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{int(count)} B"
