"""What the running command was given, as arguments for another run of it elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import click

__all__ = ["given_arguments", "given_files"]


def given_arguments(*, only: Collection[str] | None = None, but: Collection[str] = ()) -> tuple[str, ...]:
    """Options that differ from their defaults, by parameters' names. Files are named by absolute paths."""
    given: list[str] = []
    for option, value in _given(only, but):
        told = value.absolute() if isinstance(value, Path) else value
        given.append(option.opts[0] if option.is_flag else f"{option.opts[0]}={told}")
    return tuple(given)


def given_files(*, but: Collection[str] = ()) -> tuple[Path, ...]:
    """The files among them."""
    return tuple(value.absolute() for _, value in _given(None, but) if isinstance(value, Path))


def _given(only: Collection[str] | None, but: Collection[str]) -> Iterator[tuple[click.Option, Any]]:
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        if not isinstance(parameter, click.Option) or name in but or (only is not None and name not in only):
            continue
        value = context.params.get(name)
        if value in (None, (), parameter.get_default(context)):
            continue
        for one in value if parameter.multiple else (value,):
            yield parameter, one
