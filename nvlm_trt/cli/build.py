"""``nvlm-trt build``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nvlm_trt.cli.output import Output, dry_run_option, output_options, shown_bytes

if TYPE_CHECKING:
    from nvlm_trt.pipeline.report import BuildResult

__all__ = ["build"]


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--recipe", required=True, metavar="NAME", help="A shipped recipe, or a .toml file of your own.")
@click.option("-o", "out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Where to build.")
@click.option("--until", metavar="STEP", help="Do this step and what it needs, nothing else.")
@dry_run_option
@output_options
def build(model: Path, recipe: str, out: Path, until: str | None, dry_run: bool, output: Output) -> None:
    """Build a deployment of the checkpoint MODEL in DIR.

    Finished steps are kept, so a killed build goes on where it was. Steps that this machine lacks a tool for are listed
    at the end, with the command that does them.
    """
    from nvlm_trt.cli.progress import build_reporter
    from nvlm_trt.pipeline.builder import build as run_build

    with build_reporter(quiet=output.quiet or dry_run) as reporter:
        result = run_build(model, recipe, out, until=until, dry_run=dry_run, reporter=reporter)
    output.result(result.to_json(), _dry_text(result) if dry_run else _text(result))


def _dry_text(result: BuildResult) -> str:
    lines = [f"{report.step:20} {report.outcome:12} {report.reason}".rstrip() for report in result.steps]
    return "\n".join([*lines, *_left_text(result)])


def _text(result: BuildResult) -> str:
    kept = [report for report in result.steps if report.outcome != "left"]
    done = "everything is built" if result.whole else "what was asked for is built"
    lines = [f"{result.out}, recipe {result.recipe}: {'steps are left' if result.left else done}"]
    for report in kept:
        where = ", ".join(report.outputs)
        lines.append(f"  {report.step:20} {shown_bytes(report.output_bytes):>9}  {where}")
    lines += _left_text(result)
    if not result.left and result.whole:
        lines.append(f"next: nvlm-trt serve {shlex.quote(str(result.out))}")
    return "\n".join(lines)


def _left_text(result: BuildResult) -> list[str]:
    if not result.left:
        return []
    lines = ["left, because this machine cannot:"]
    for report in result.left:
        lines.append(f"  {report.step:20} {report.reason}")
        if report.command:
            lines.append(f"    by hand, in the container: {shlex.join(report.command)}")
    if result.finish_command:
        lines += ["to finish, run the same build in the recipe's container:", f"  {shlex.join(result.finish_command)}"]
    return lines
