"""Milliseconds per tile of the CPU vision engine beside torch, eager and compiled, on the same weights in the same run.

    python scripts/bench_vision.py

The tower is synthetic, 31 million parameters at 448 pixels (8 layers, hidden 512, 8 heads, none of them dummy, so that
neither side computes what the other leaves out). All runners answer the same tiles first and are compared: a wrong one
prints no figures. Then they take turns, so that the machine's other work meets all of them.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.checkpoint.synthetic import SIZES, write_checkpoint
from nvlm_trt.reference.vision import VisionReference
from nvlm_trt.vision.export import export_vision
from nvlm_trt.vision.onnxruntime_engine import OnnxRuntimeEngine
from nvlm_trt.vision.parity import difference
from scripts.facts import facts, show_facts

SIZE = replace(
    SIZES["small"],
    image_size=448,
    vision_hidden_size=512,
    vision_intermediate_size=2048,
    vision_layers=8,
    vision_heads=8,
    vision_dummy_heads=0,
    hidden_size=1024,
    intermediate_size=1024,
    heads=8,
)
# Relative errors: float32 runners differ in the order of sums, bfloat16 in every rounding.
_FLOAT32_TOLERANCE, _BFLOAT16_TOLERANCE = 1e-5, 5e-2

Runner = Callable[[NDArray[np.uint8]], NDArray[Any]]


def _torch_runner(module: Any) -> Runner:
    def run(tiles: NDArray[np.uint8]) -> NDArray[Any]:
        with torch.inference_mode():
            rows: NDArray[Any] = module(torch.from_numpy(tiles)).float().numpy()
        return rows

    return run


def _runners(folder: Path, max_tiles: int, threads: int, compiled: bool) -> dict[str, Runner]:
    checkpoint = open_checkpoint(folder / "checkpoint")
    export_vision(checkpoint, folder / "vision")
    engine = OnnxRuntimeEngine(folder / "vision", folder / "checkpoint", max_tiles, threads=threads)
    torch.set_num_threads(threads)
    wide, narrow = (VisionReference.from_checkpoint(checkpoint) for _ in range(2))
    narrow = narrow.bfloat16()
    runners = {
        "ONNX Runtime float32": engine.encode,
        "torch float32": _torch_runner(wide),
        "torch bfloat16": _torch_runner(narrow),
    }
    if compiled:
        runners["torch float32, compiled"] = _torch_runner(torch.compile(wide))
        runners["torch bfloat16, compiled"] = _torch_runner(torch.compile(narrow))
    return runners


def _measure(runners: dict[str, Runner], tiles: NDArray[np.uint8], runs: int) -> dict[str, dict[str, float]]:
    figures: dict[str, dict[str, float]] = {}
    times: dict[str, list[float]] = {name: [] for name in runners}
    wanted = runners["torch float32"](tiles)
    for name, run in runners.items():
        started = time.perf_counter()
        error = difference(run(tiles), wanted)[0]
        first_s = time.perf_counter() - started
        if error > (_BFLOAT16_TOLERANCE if "bfloat16" in name else _FLOAT32_TOLERANCE):
            raise click.ClickException(f"{name} is off by {error:.1e}: nothing was measured.")
        figures[name] = {"relative_error": error, "first_call_s": first_s}
    for _ in range(runs):
        for name, run in runners.items():
            started = time.perf_counter()
            run(tiles)
            times[name].append(1e3 * (time.perf_counter() - started))
    ours = statistics.median(times["ONNX Runtime float32"])
    for name, found in times.items():
        median = statistics.median(found)
        figures[name] |= {"ms": median, "least_ms": min(found), "most_ms": max(found), "against_ours": median / ours}
    return figures


@click.command(help=__doc__)
@click.option("--tiles", "sizes", type=click.IntRange(1, 56), multiple=True, default=(1, 7), show_default=True)
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=len(os.sched_getaffinity(0)), show_default=True)
@click.option("--compiled/--eager-only", default=True, show_default=True, help="Compiling takes a minute or so.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def main(sizes: tuple[int, ...], runs: int, threads: int, compiled: bool, as_json: bool) -> None:
    circumstances = facts(threads=threads)
    with tempfile.TemporaryDirectory() as scratch:
        write_checkpoint(Path(scratch) / "checkpoint", SIZE)
        runners = _runners(Path(scratch), max(sizes), threads, compiled)
        noise = np.random.default_rng(0).integers(0, 256, (max(sizes), 448, 448, 3), dtype=np.uint8)
        points = {count: _measure(runners, noise[:count], runs) for count in sizes}
    if as_json:
        click.echo(json.dumps({**circumstances, "tiles": points}, indent=2))
        return
    show_facts(circumstances)
    for count, figures in points.items():
        click.echo(f"\n{count} tiles, median of {runs} runs, least and most in brackets")
        for name, found in figures.items():
            spread = f"({found['least_ms']:.0f}-{found['most_ms']:.0f})"
            click.echo(
                f"{name:>26}  {found['ms']:8.0f} ms {spread:>14}  {found['against_ours']:5.2f}x  "
                f"error {found['relative_error']:.1e}  first call {found['first_call_s']:.1f} s"
            )


if __name__ == "__main__":
    main()
