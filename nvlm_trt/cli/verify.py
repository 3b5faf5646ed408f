"""``nvlm-trt verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nvlm_trt.cli.output import Output, output_options, shown_bytes
from nvlm_trt.errors import ArtefactError

if TYPE_CHECKING:
    from nvlm_trt.pipeline.verification import Verification

__all__ = ["verify"]


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Also check that this is the checkpoint that was built from.",
)
@output_options
@click.pass_context
def verify(context: click.Context, folder: Path, checkpoint: Path | None, output: Output) -> None:
    """Read every file of the deployment in DIR and compare it with what was built.

    A single changed byte is found and its file named; the exit code is then 6.
    """
    from nvlm_trt.cli.progress import reading_reporter
    from nvlm_trt.pipeline.verification import verify as run_verify

    with reading_reporter("verify", quiet=output.quiet) as advanced:
        verification = run_verify(folder, checkpoint=checkpoint, advanced=advanced)
    output.result(verification.to_json(), _text(verification))
    if verification.faults:
        names = ", ".join(f"{fault.name} is {fault.state}" for fault in verification.faults[:3])
        more = f", and {len(verification.faults) - 3} more" if len(verification.faults) > 3 else ""
        fault = ArtefactError("E-ARTEFACT-ALTERED", f"{names}{more}.", _fix(verification))
        click.echo(f"error: {fault}", err=True)
        context.exit(fault.exit_code)


def _fix(verification: Verification) -> str:
    """A checkpoint's files are not to be deleted: perhaps another folder was meant."""
    theirs = {fault.name.startswith("checkpoint:") for fault in verification.faults}
    ours = "Delete those of the deployment and run the same build again." if False in theirs else ""
    return f"{ours}{' Name the checkpoint that was built from, or fetch it again.' if True in theirs else ''}".strip()


def _text(verification: Verification) -> str:
    lines = [
        f"{finding.state:10} {finding.name}{f': {finding.detail}' if finding.detail else ''}"
        for finding in verification.findings
    ]
    whole = "all as built" if not verification.faults else f"{len(verification.faults)} not as built"
    return "\n".join([*lines, f"{verification.num_files} files, {shown_bytes(verification.num_bytes)}: {whole}"])
