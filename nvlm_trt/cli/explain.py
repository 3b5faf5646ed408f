"""``nvlm-trt explain``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nvlm_trt.cli.output import Output, output_options

if TYPE_CHECKING:
    from nvlm_trt.pipeline.explanation import Difference, Explanation

__all__ = ["explain"]


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@output_options
def explain(folder: Path, output: Output) -> None:
    """Say how the deployment in DIR differs from this machine, and the cheapest repair.

    Looks at versions, GPUs, the recipe, the checkpoint's place and the files' sizes. Reads no large file: that is
    verify.
    """
    from nvlm_trt.pipeline.explanation import explain as run_explain

    explanation = run_explain(folder)
    output.result(explanation.to_json(), "\n".join(_lines(explanation, folder)))


def _lines(explanation: Explanation, folder: Path) -> Iterator[str]:
    groups = (
        ("keeps it from being served here:", [one for one in explanation.differences if one.blocks]),
        ("differs, but serves; the next build does these steps again:", _others(explanation)),
    )
    for title, differences in groups:
        if not differences:
            continue
        yield title
        for one in differences:
            steps = f" ({', '.join(one.steps)})" if one.steps else ""
            yield f"  {one.part}{steps}: built {one.built}, here {one.here}"
        repairs = dict.fromkeys(shlex.join(one.repair) for one in differences if one.repair)
        yield from (f"    repair: {repair}" for repair in repairs)
    if explanation.serves:
        yield f"it serves here: nvlm-trt serve {shlex.quote(str(folder))}"


def _others(explanation: Explanation) -> list[Difference]:
    return [one for one in explanation.differences if not one.blocks]
