"""``nvlm-trt doctor``."""

from __future__ import annotations

import click

from nvlm_trt.cli.output import Output, output_options

__all__ = ["doctor"]


@click.command()
@output_options
def doctor(output: Output) -> None:
    """Say what this machine can do, and how to get what is missing. Never fails."""
    from nvlm_trt.pipeline.survey import survey

    tools = survey()
    lines = []
    for tool in tools:
        lines.append(f"{'yes' if tool.found else 'no ':4} {tool.name:15} {tool.detail}")
        if not tool.found:
            lines.append(f"{'':21}for {tool.enables}. {tool.get}")
    output.result({"format": 1, "tools": [tool.to_json() for tool in tools]}, "\n".join(lines))
