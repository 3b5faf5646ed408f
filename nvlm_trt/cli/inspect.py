"""``nvlm-trt inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nvlm_trt.cli.output import Output, output_options, shown_bytes

if TYPE_CHECKING:
    from nvlm_trt.pipeline.inspection import Inspection

__all__ = ["inspect"]


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@output_options
def inspect(model: Path, output: Output) -> None:
    """Say what MODEL holds: a checkpoint folder, or a bare config.json.

    Reads headers only. A folder is checked whole: names, shapes, dtypes, index, shards, tokenizer.
    """
    from nvlm_trt.pipeline.inspection import inspect_model

    inspection = inspect_model(model)
    output.result(inspection.to_json(), _text(inspection))


def _text(inspection: Inspection) -> str:
    vision, decoder, tiling = inspection.config.vision, inspection.config.decoder, inspection.config.tiling
    parameters = inspection.parameters
    most = tiling.most_tiles_per_image
    dtypes = ", ".join(f"{n} {tag} ({shown_bytes(size)})" for tag, (n, size) in sorted(inspection.dtypes.items()))
    shards = f" in {inspection.num_shards} files" if inspection.num_shards else ", by config.json alone"
    lines = [
        f"NVLM-D, {inspection.num_parameters:,} parameters",
        f"  vision      {parameters['vision']:>15,}   {vision.num_layers} layers of {vision.hidden_size}, "
        f"{vision.num_heads} heads, {vision.image_size} px tiles in {vision.patch_size} px patches",
        f"  projector   {parameters['projector']:>15,}   {vision.shuffled_width} to {vision.projector_hidden_size} "
        f"to {vision.output_size}",
        f"  decoder     {parameters['decoder']:>15,}   {decoder.num_layers} layers of {decoder.hidden_size}, "
        f"{decoder.num_heads} heads on {decoder.num_kv_heads}, vocabulary {decoder.vocab_size}",
        f"tensors       {inspection.num_tensors}: {dtypes}",
        f"bytes         {inspection.num_bytes:,}{shards}",
        f"tiles         {tiling.min_tiles} to {tiling.max_tiles}{' and a thumbnail' if tiling.use_thumbnail else ''}, "
        f"{vision.tokens_per_tile} tokens each, {most * vision.tokens_per_tile} tokens at most",
    ]
    if inspection.vocab_len is not None:
        lines.append(f"tokenizer     {inspection.vocab_len} ids")
    return "\n".join(lines + [f"note          {quirk}" for quirk in inspection.quirks])
