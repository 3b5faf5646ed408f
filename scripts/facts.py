"""The header of a benchmark's output: where, when and with what it ran."""

from __future__ import annotations

import os
from typing import Any

import click

from nvlm_trt.load.circumstances import circumstances

__all__ = ["facts", "show_facts"]


def facts(**more: Any) -> dict[str, Any]:
    """This machine, its load over the last minute, versions, date and command; and ``more`` of the benchmark's own."""
    return {**circumstances().model_dump(exclude={"server"}), "load_before": round(os.getloadavg()[0], 2), **more}


def show_facts(found: dict[str, Any]) -> None:
    for name, value in found.items():
        shown = ", ".join(f"{key} {one}" for key, one in value.items()) if isinstance(value, dict) else value
        click.echo(f"{name:>16}  {shown}")
