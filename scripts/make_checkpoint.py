"""Write a synthetic NVLM-D checkpoint: everything as in the release, random weights, any size.

python scripts/make_checkpoint.py OUT                               # small, 6 million parameters
python scripts/make_checkpoint.py OUT --preset full --shards 46     # the release's own sizes, 177 GB
python scripts/make_checkpoint.py OUT --preset full --layers 4 --vision-layers 2
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.checkpoint.synthetic import SIZES, CheckpointSize, write_checkpoint
from nvlm_trt.errors import NvlmError


def size_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option per field of ``CheckpointSize``, each in place of the preset's value."""
    for field in reversed(fields(CheckpointSize)):
        command = click.option(f"--{field.name.replace('_', '-')}", type=int)(command)
    return command


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--preset", type=click.Choice(list(SIZES)), default="small", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--shards", type=int, default=5, show_default=True)
@size_options
def main(out: Path, preset: str, seed: int, shards: int, **sizes: int | None) -> None:
    """Write a synthetic NVLM-D checkpoint to the new folder OUT."""
    try:
        size = replace(SIZES[preset], **{name: value for name, value in sizes.items() if value is not None})
        write_checkpoint(out, size, seed, shards)
        checkpoint = open_checkpoint(out)
    except NvlmError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    infos = [checkpoint.info(name) for name in checkpoint.names()]
    click.echo(f"{len(infos)} tensors, {sum(info.nbytes for info in infos) / 1e9:.3f} GB, {shards} shards in {out}")


if __name__ == "__main__":
    main()
