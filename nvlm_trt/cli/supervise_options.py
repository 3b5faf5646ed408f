"""The options of the supervisor."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nvlm_trt.cli.output import Output

if TYPE_CHECKING:
    from nvlm_trt.supervise.events import EventLog
    from nvlm_trt.supervise.failures import RestartPolicy

__all__ = ["SuperviseChoice", "supervise_options"]

F = TypeVar("F", bound=Callable[..., Any])
_SECONDS = click.FloatRange(0, min_open=True)

_OPTIONS: tuple[Callable[[F], F], ...] = (
    click.option(
        "--health-port",
        type=click.IntRange(0, 65535),
        default=9001,
        show_default=True,
        help="Where /health says whether the service works. 0 takes a free port.",
    ),
    click.option(
        "--drain-s",
        type=click.FloatRange(0),
        default=30,
        show_default=True,
        help="Seconds that running answers get at shutdown.",
    ),
    click.option(
        "--ask-every-s",
        type=_SECONDS,
        default=2,
        show_default=True,
        help="Seconds between two health questions to Triton.",
    ),
    click.option(
        "--ask-timeout-s", type=_SECONDS, default=5, show_default=True, help="Seconds to wait for the answer."
    ),
    click.option(
        "--start-timeout-s", type=_SECONDS, default=120, show_default=True, help="Seconds that a start may take."
    ),
    click.option(
        "--max-failures",
        type=click.IntRange(1),
        default=5,
        show_default=True,
        help="Give up after this many failures ...",
    ),
    click.option(
        "--failure-window-s", type=_SECONDS, default=600, show_default=True, help="... within this many seconds."
    ),
    click.option("--json-log", is_flag=True, help="Log restarts and other events as JSON, one a line."),
    click.option(
        "--triton-nice",
        type=click.IntRange(0, 19),
        default=0,
        show_default=True,
        help="How far Triton gives way to everything else on its cores, as in nice(1).",
    ),
    click.option("--server-log", type=click.Path(path_type=Path), help="Keep Triton's log in this file."),
)


@dataclass(frozen=True, slots=True)
class SuperviseChoice:
    health_port: int
    drain_s: float
    ask_every_s: float
    ask_timeout_s: float
    start_timeout_s: float
    max_failures: int
    failure_window_s: float
    json_log: bool
    triton_nice: int
    server_log: Path | None

    @property
    def policy(self) -> RestartPolicy:
        from nvlm_trt.supervise.failures import RestartPolicy

        return RestartPolicy(self.max_failures, self.failure_window_s)

    def events(self, output: Output) -> EventLog:
        from nvlm_trt.supervise.events import EventLog

        return EventLog(lambda line: click.echo(line, err=True), as_json=self.json_log, quiet=output.quiet)

    def logged(self, output: Output) -> Output:
        """``output``, with its notes in the log where that is JSON, in which no other line may be."""
        return _Logged(output.as_json, output.quiet, self.events(output)) if self.json_log else output


@dataclass(frozen=True, slots=True)
class _Logged(Output):
    events: EventLog

    def note(self, text: str) -> None:
        self.events("server", "note", text)


def supervise_options(command: F) -> F:
    """Adds the options; the command gets a ``SuperviseChoice`` as ``supervise``."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        chosen = {name: kwargs.pop(name) for name in SuperviseChoice.__slots__}
        return command(*args, supervise=SuperviseChoice(**chosen), **kwargs)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]
