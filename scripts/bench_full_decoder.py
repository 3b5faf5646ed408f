"""Calibrate and convert decoder layers of the release's own size, on a machine that does not hold the release.

    python scripts/bench_full_decoder.py --out four             # a CUDA device: 4 layers, then 80, 10 minutes at most
    python scripts/compare_fp8_hardware.py four --tokens 64     # then: the device's FP8 products on these layers
    python scripts/bench_full_decoder.py --device cpu --layers 1 --tokens 256 --minutes 1

check      one layer, a few tokens, on the device and on the CPU: the magnitudes must agree to 1e-4
calibrate  some layers of a synthetic checkpoint on disk, random rows in sequences of 256 tokens
convert    the same layers to a TensorRT-LLM checkpoint for one GPU, always on the CPU
whole      the whole decoder, each layer made from a seed when its turn comes, until it is done or time is up

Seconds a layer are the median, least and most; *making* is what the generator took of it, and is not counted in them.
The total is for all layers, extrapolated where time was up. Memory of the device is what torch reserved at most, the
CUDA context (about half a GB) not counted; memory of the host is resident, mapped pages of the checkpoint included.
Exits with 1 where the check or the limit of 24 GB fails.
"""

from __future__ import annotations

import contextlib
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from nvlm_trt import __version__
from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.checkpoint.synthetic import SIZES, CheckpointSize, GeneratedCheckpoint, write_checkpoint
from nvlm_trt.decoder.calibration import Calibration, calibrate
from nvlm_trt.decoder.layer_ops import DEVICES
from nvlm_trt.decoder.trtllm_checkpoint import write_trtllm_checkpoint
from nvlm_trt.errors import NvlmError
from nvlm_trt.pipeline.memory import process_memory, reset_peak

_SAMPLE_TOKENS = 256
_CHECK_TOKENS = 32
_TOLERANCE = 1e-4
_DEVICE_LIMIT_BYTES = 24_000_000_000


class TimeUp(Exception):
    """Enough layers for this run."""


class TimedCheckpoint(GeneratedCheckpoint):
    """Knows how long making its tensors took."""

    making_s = 0.0

    def read(self, name: str) -> NDArray[Any]:
        start = time.perf_counter()
        values = super().read(name)
        self.making_s += time.perf_counter() - start
        return values


@dataclass(frozen=True, slots=True)
class Part:
    """``layers`` are those that were done, ``total_s`` is for all ``of``, extrapolated where they are more."""

    part: str
    layers: int
    of: int
    median_s: float
    least_s: float
    most_s: float
    making_s: float
    total_s: float
    host_bytes: int
    device_bytes: int


class Watch:
    """Progress of a pass: seconds of each layer without making it, until ``minutes`` are over."""

    def __init__(self, checkpoint: Checkpoint, minutes: float) -> None:
        self.seconds: list[float] = []
        self.making: list[float] = []
        self._checkpoint = checkpoint
        self._end = time.perf_counter() + 60 * minutes
        self._last = self._now()

    def __call__(self, done: int, total: int) -> None:
        now = self._now()
        making = now[1] - self._last[1]
        self.seconds.append(now[0] - self._last[0] - making)
        self.making.append(making)
        self._last = now
        if done < total and now[0] > self._end:
            raise TimeUp

    def _now(self) -> tuple[float, float]:
        return time.perf_counter(), getattr(self._checkpoint, "making_s", 0.0)


def measure(size: CheckpointSize, layers: int, tokens: int, device: str, minutes: float, out: Path) -> Iterator[Part]:
    """The parts after the check, each when it is done; ``out`` gets the converted layers."""
    samples = _samples(tokens, size.hidden_size)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        folder = Path(scratch) / "checkpoint"
        write_checkpoint(folder, replace(size, layers=layers, vision_layers=1))
        part, calibration = _calibrated("calibrate", open_checkpoint(folder), samples, device, float("inf"))
        yield part
        assert calibration is not None
        yield _converted(folder, calibration, out)
    if minutes:
        yield _calibrated("whole", TimedCheckpoint(size), samples, device, minutes)[0]


def disagreement(size: CheckpointSize, device: str) -> float:
    """The largest relative difference between magnitudes found on the device and on the CPU."""
    checkpoint, samples = GeneratedCheckpoint(replace(size, layers=1)), _samples(_CHECK_TOKENS, size.hidden_size)
    found, expected = (astuple(calibrate(checkpoint, samples, device=one).layers[0]) for one in (device, "cpu"))
    return max(abs(float(one) / float(other) - 1) for one, other in zip(found, expected, strict=True))


def _calibrated(
    name: str, checkpoint: Checkpoint, samples: list[NDArray[np.float32]], device: str, minutes: float
) -> tuple[Part, Calibration | None]:
    reset_peak()
    device_peak(reset=True)
    watch, calibration = Watch(checkpoint, minutes), None
    with contextlib.suppress(TimeUp):
        calibration = calibrate(checkpoint, samples, watch, device=device)
    done, of = len(watch.seconds), checkpoint.config.decoder.num_layers
    median, making = statistics.median(watch.seconds), statistics.median(watch.making)
    total = sum(watch.seconds) + (of - done) * median
    ends = min(watch.seconds), max(watch.seconds)
    host = process_memory().peak_rss_bytes
    return Part(name, done, of, median, *ends, making, total, host, device_peak()), calibration


def _converted(folder: Path, calibration: Calibration, out: Path) -> Part:
    reset_peak()
    start = time.perf_counter()
    write_trtllm_checkpoint(open_checkpoint(folder), calibration, out)
    total = time.perf_counter() - start
    layers = len(calibration.layers)
    each = total / layers
    return Part("convert", layers, layers, each, each, each, 0.0, total, process_memory().peak_rss_bytes, 0)


def device_peak(reset: bool = False) -> int:
    """Bytes that torch has reserved at most since the last reset; 0 where no CUDA device is in use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    if reset:
        torch.cuda.reset_peak_memory_stats()
    return int(torch.cuda.max_memory_reserved())


def _samples(tokens: int, width: int) -> list[NDArray[np.float32]]:
    generator = np.random.default_rng(0)
    lengths = [min(_SAMPLE_TOKENS, tokens - start) for start in range(0, tokens, _SAMPLE_TOKENS)]
    return [generator.normal(0, 0.5, (length, width)).astype(np.float32) for length in lengths]


def circumstances(device: str) -> dict[str, str]:
    torch = sys.modules.get("torch")
    on_device = torch is not None and torch.cuda.is_initialized()
    return {
        "command": " ".join(["python", "scripts/bench_full_decoder.py", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name() if torch and on_device else f"{device}, {platform.machine()}",
        "torch": torch.__version__ if torch else "not used",
        "numpy": np.__version__,
        "nvlm_trt": __version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def show(part: Part) -> None:
    layers = f"{part.layers}/{part.of}"
    spread = f"{part.median_s:.3f} ({part.least_s:.3f}-{part.most_s:.3f})"
    memory = f"{part.host_bytes / 1e9:>8.2f} {part.device_bytes / 1e9:>10.2f}"
    click.echo(f"{part.part:<10} {layers:>7} {spread:>24} {part.making_s:>9.3f} {part.total_s:>9.1f} {memory}")


@click.command(help=__doc__)
@click.option("--device", type=click.Choice(list(DEVICES)), default="cuda", show_default=True)
@click.option("--preset", type=click.Choice(list(SIZES)), default="full", show_default=True)
@click.option("--layers", type=click.IntRange(min=1), default=4, show_default=True, help="To calibrate and convert.")
@click.option("--tokens", type=click.IntRange(min=1), default=2048, show_default=True)
@click.option("--minutes", type=click.FloatRange(min=0), default=10, show_default=True, help="For the whole decoder.")
@click.option("--out", type=click.Path(path_type=Path), help="Keep the converted layers in this folder.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def main(device: str, preset: str, layers: int, tokens: int, minutes: float, out: Path | None, as_json: bool) -> None:
    size = SIZES[preset]
    try:
        with tempfile.TemporaryDirectory() as scratch:
            difference = disagreement(size, device)
            about = {**circumstances(device), "tokens": tokens, "disagreement": difference}
            if not as_json:
                for name, value in about.items():
                    click.echo(f"{name:>12}  {value}")
                columns = f"{'s/layer':>24} {'making s':>9} {'total s':>9} {'host GB':>8} {'device GB':>10}"
                click.echo(f"{'part':<10} {'layers':>7} {columns}")
            parts = []
            for part in measure(size, layers, tokens, device, minutes, out or Path(scratch) / "out"):
                parts.append(part)
                if not as_json:
                    show(part)
    except NvlmError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    if as_json:
        click.echo(json.dumps({**about, "parts": [asdict(part) for part in parts]}, indent=2))
    too_much = max(part.device_bytes for part in parts) > _DEVICE_LIMIT_BYTES
    if difference > _TOLERANCE:
        click.echo(f"The device's magnitudes differ from the CPU's by {difference:.1e}.", err=True)
    if too_much:
        click.echo("More than 24 GB of the device were used.", err=True)
    sys.exit(too_much or difference > _TOLERANCE)


if __name__ == "__main__":
    main()
