"""``nvlm-trt ask``."""

from __future__ import annotations
import click
from nvlm_trt.cli.output import Output, output_options

__all__ = ["ask"]


@click.command()
@output_options
def ask(output: Output) -> None:
    """Ask."""
