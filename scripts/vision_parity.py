"""Measure the parity chain of a vision half: torch, the graph in ONNX Runtime, the narrow dtype, an engine.

    python scripts/vision_parity.py /tmp/full
    python scripts/vision_parity.py /tmp/full --vision build/vision --engine tensorrt --json parity.json

Real pictures and noise go through every chain stage by stage, so the memory is that of one stage and the release's own
size can be checked on a small machine. Without --vision the graph is exported to a temporary folder first. Exit status
1 where a link does not hold.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from nvlm_trt import __version__
from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.errors import ArtefactError, MissingToolError, NvlmError
from nvlm_trt.model.tiling import cut_tiles
from nvlm_trt.reference.vision_stages import reference_stages
from nvlm_trt.resources import resource_folder
from nvlm_trt.vision.artefact import GraphInfo, read_graph
from nvlm_trt.vision.export import export_vision
from nvlm_trt.vision.parity import (
    ENGINE,
    GRAPH_FLOAT32,
    TORCH_FLOAT32,
    TORCH_FLOAT64,
    Chain,
    compare_chains,
    links_for,
)
from nvlm_trt.vision.parity_report import ParityReport
from nvlm_trt.vision.registry import load_engine
from nvlm_trt.vision.stages import run_stages


def _tiles(checkpoint: Checkpoint, num_pictures: int, num_noise: int) -> NDArray[np.uint8]:
    """The first tile of each of the shipped photographs, then noise."""
    side = checkpoint.config.vision.image_size
    files = sorted((resource_folder("calibration") / "pictures").glob("*.jpg"))[:num_pictures]
    tiles = []
    for file in files:
        with Image.open(file) as image:
            tiles.append(cut_tiles(image.convert("RGB"), checkpoint.config.tiling)[0])
    noise = np.random.default_rng(0).integers(0, 256, (num_noise, side, side, 3), dtype=np.uint8)
    return np.concatenate([np.array(tiles, np.uint8).reshape(-1, side, side, 3), noise])


def _engine_chain(
    kind: str, vision: Path, checkpoint: Path, tiles: NDArray[np.uint8]
) -> Iterator[tuple[str, NDArray[Any]]]:
    """The engine's rows, one tile at a time, as the last stage."""
    engine = load_engine(kind, vision, checkpoint, 1)
    rows = [engine.encode(tile[None]) for tile in tiles]
    yield (
        "projector",
        np.concatenate([row if isinstance(row, np.ndarray) else row.float().cpu().numpy() for row in rows]),
    )
    engine.close()


def _check(checkpoint: Checkpoint, vision: Path, tiles: NDArray[np.uint8], exact: bool, engine: str) -> ParityReport:
    dtype = GraphInfo.of(read_graph(vision)).dtype
    chains: dict[str, Chain] = {
        TORCH_FLOAT32: _told(reference_stages(checkpoint, tiles)),
        GRAPH_FLOAT32: run_stages(vision, checkpoint.root, tiles),
    }
    if dtype != "float32":
        chains[f"torch {dtype}"] = reference_stages(checkpoint, tiles, dtype)
    not_run = {}
    if exact:
        chains[TORCH_FLOAT64] = reference_stages(checkpoint, tiles, "float64")
    try:
        chains[ENGINE] = iter(list(_engine_chain(engine, vision, checkpoint.root, tiles)))
    except (MissingToolError, ArtefactError) as error:
        not_run[ENGINE] = f"{engine}: {error.what}"
    return compare_chains(links_for(dtype), chains, _kinds(tiles), not_run)


def _told(chain: Chain) -> Chain:
    """On a terminal, says where the chains are."""
    for stage, values in chain:
        if sys.stderr.isatty():
            click.echo(f"\r{stage:<16}", nl=False, err=True)
        yield stage, values


def _kinds(tiles: NDArray[np.uint8]) -> dict[str, slice]:
    half = len(tiles) // 2
    return {"pictures": slice(0, half), "noise": slice(half, None)}


@click.command(help=__doc__)
@click.argument("checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--vision", type=click.Path(exists=True, file_okay=False, path_type=Path), help="An exported folder.")
@click.option("--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), default="bfloat16", show_default=True)
@click.option("--tiles", "num_tiles", type=click.IntRange(1, 8), default=1, show_default=True, help="Of each kind.")
@click.option("--exact/--no-exact", default=True, show_default=True, help="Measure the oracle against float64 too.")
@click.option("--engine", type=click.Choice(["tensorrt", "tensorrt_rtx"]), default="tensorrt", show_default=True)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the report here too.")
@click.option("--every", type=click.IntRange(min=1), default=8, show_default=True, help="Layers between table lines.")
def main(
    checkpoint: Path,
    vision: Path | None,
    dtype: Any,
    num_tiles: int,
    exact: bool,
    engine: str,
    json_file: Path | None,
    every: int,
) -> None:
    started = time.perf_counter()
    try:
        opened = open_checkpoint(checkpoint)
        tiles = _tiles(opened, num_tiles, num_tiles)
        with tempfile.TemporaryDirectory(dir=vision) as scratch:
            if vision is None:
                export_vision(opened, Path(scratch), dtype)
            report = _check(opened, vision or Path(scratch), tiles, exact, engine)
    except NvlmError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    config = opened.config.vision
    circumstances = {
        "command": " ".join(["python", "scripts/vision_parity.py", *sys.argv[1:]]),
        "checkpoint": opened.fingerprint(),
        "tower": f"{config.num_layers} layers, hidden {config.hidden_size}, {config.image_size} pixels",
        "tiles": f"{num_tiles} of pictures, {num_tiles} of noise",
        "versions": {
            "nvlm_trt": __version__,
            "numpy": np.__version__,
            "onnxruntime": version("onnxruntime"),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "cores": len(os.sched_getaffinity(0)),
        "seconds": round(time.perf_counter() - started, 1),
        "peak_resident_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
        "date": time.strftime("%Y-%m-%d"),
    }
    report = replace(report, circumstances=circumstances)
    if json_file is not None:
        json_file.write_text(report.to_json())
    click.echo(f"{circumstances['tower']}; {circumstances['tiles']}; {circumstances['seconds']} s\n")
    click.echo(report.to_text(every), nl=False)
    if not report.passed:
        sys.exit(1)


if __name__ == "__main__":
    main()
