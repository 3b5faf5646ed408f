"""Seconds and memory of calibration and its checks, on a checkpoint and rows of random samples.

python scripts/bench_calibration.py CHECKPOINT --tokens 512 --runs 3
python scripts/bench_calibration.py CHECKPOINT --tokens 512 --device cuda

Each line is one pass: seconds for one layer (median, least, most over runs and layers), the arithmetic of the linears
a second, and the largest resident memory since the pass began, mapped pages of the checkpoint included. Hidden states
wait on disk. The first and the last line are what BLAS does alone on float32 of a linear's shape: the roof, and whether
the machine was as free at the end as at the beginning.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.decoder.calibration import calibrate
from nvlm_trt.decoder.kv_gate import check_kv_cache
from nvlm_trt.decoder.sensitivity import measure_sensitivity
from nvlm_trt.errors import NvlmError
from nvlm_trt.pipeline.memory import process_memory, reset_peak

SAMPLE_TOKENS = 256


class Clock:
    """Seconds between calls of ``progress``."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = time.perf_counter()

    def __call__(self, _done: int, _total: int) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


@click.command()
@click.argument("checkpoint_folder", type=click.Path(path_type=Path))
@click.option("--tokens", type=int, default=512, show_default=True)
@click.option("--runs", type=int, default=3, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--only", default="", help="Passes whose name begins so.")
def main(checkpoint_folder: Path, tokens: int, runs: int, device: str, only: str) -> None:
    """Measure every pass on the checkpoint in CHECKPOINT_FOLDER."""
    try:
        measure(checkpoint_folder, tokens, runs, device, only)
    except NvlmError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)


def measure(checkpoint_folder: Path, tokens: int, runs: int, device: str, only: str) -> None:
    checkpoint = open_checkpoint(checkpoint_folder)
    config = checkpoint.config.decoder
    generator = np.random.default_rng(0)
    lengths = [min(SAMPLE_TOKENS, tokens - start) for start in range(0, tokens, SAMPLE_TOKENS)]
    samples = [generator.normal(0, 0.5, (length, config.hidden_size)).astype(np.float32) for length in lengths]
    weights = config.hidden_size * (config.qkv_size + config.q_size + 3 * config.intermediate_size)
    found = calibrate(checkpoint, samples, device=device)
    raw_product(tokens, config.hidden_size)
    passes: dict[str, tuple[float, Callable[..., Any]]] = {
        "calibrate amax": (1, lambda **more: calibrate(checkpoint, samples, **more)),
        "calibrate percentile": (1, lambda **more: calibrate(checkpoint, samples, method="percentile", **more)),
        "calibrate mse": (1, lambda **more: calibrate(checkpoint, samples, method="mse", **more)),
        "KV cache check": (1, lambda **more: check_kv_cache(checkpoint, samples, found, **more)),
        "sensitivity": (0, lambda **more: measure_sensitivity(checkpoint, samples, found, **more)),
    }
    click.echo(f"{'pass':<22}{'s/layer':>9}{'least':>9}{'most':>9}{'GFLOP/s':>10}{'peak GB':>10}")
    chosen = {name: one for name, one in passes.items() if name.startswith(only)}
    for name, (work, run) in chosen.items():
        clock_seconds: list[float] = []
        reset_peak()
        for _ in range(runs):
            with tempfile.TemporaryDirectory() as scratch:
                clock = Clock()
                run(device=device, scratch=Path(scratch), progress=clock)
                clock_seconds += clock.seconds
        if name == "sensitivity":  # its two passes differ: what counts is their sum
            half = len(clock_seconds) // (2 * runs)
            turns = [clock_seconds[start : start + 2 * half] for start in range(0, len(clock_seconds), 2 * half)]
            clock_seconds = [one + two for turn in turns for one, two in zip(turn[:half], turn[half:], strict=True)]
        median = statistics.median(clock_seconds)
        rate = f"{2e-9 * work * weights * tokens / median:>10.0f}" if work else f"{'':>10}"
        peak = process_memory().peak_rss_bytes / 1e9
        click.echo(f"{name:<22}{median:>9.3f}{min(clock_seconds):>9.3f}{max(clock_seconds):>9.3f}{rate}{peak:>10.2f}")
    raw_product(tokens, config.hidden_size)


def raw_product(tokens: int, width: int) -> None:
    left, right = np.ones((tokens, width), np.float32), np.ones((width, width), np.float32)
    out = np.empty((tokens, width), np.float32)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        np.matmul(left, right.T, out=out)
        seconds.append(time.perf_counter() - start)
    rates = [2e-9 * tokens * width**2 / one for one in seconds]
    click.echo(f"BLAS alone: {statistics.median(rates):.0f} GFLOP/s ({min(rates):.0f} to {max(rates):.0f})")


if __name__ == "__main__":
    main()
