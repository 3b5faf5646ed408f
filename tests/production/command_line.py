"""Command lines in files, read by the real command line's own parser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from nvlm_trt.cli import main

__all__ = ["accepted", "option"]


def accepted(arguments: Sequence[str]) -> str:
    """The command's name. Raises ``click.UsageError`` for what the real one would refuse; nothing is run."""
    name, *rest = arguments
    command = main.commands[name]
    command.make_context(name, list(rest), parent=click.Context(main, info_name="nvlm-trt"))
    return name


def option(command: str, name: str) -> Any:
    """An option's default."""
    (found,) = (one for one in main.commands[command].params if one.name == name)
    return found.default
