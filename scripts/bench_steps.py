"""A decoding step of the compiled runner beside the least time that its bytes and its arithmetic allow.

    python scripts/bench_steps.py CHECKPOINT [--rows 1 --rows 8 --rows 32] [--positions 96]

CHECKPOINT is a decoder checkpoint folder. The rates are those of ``machine_limits.py``, measured before and after the
steps in the same run, the larger one taken; a step can take no less than the longer of both. Each number of rows is
timed in turns with the others. Logits of a row in company must be those it has alone, to the last bit, or no figures
are printed.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from nvlm_trt.embedded.checkpoint import DecoderCheckpoint
from nvlm_trt.embedded.compiled.runner import CompiledRunner
from nvlm_trt.load.circumstances import circumstances
from scripts.machine_limits import FP8, Limits, decode_step_s, measure_limits

_TURNS = 5


@click.command(help=__doc__)
@click.argument("folder", metavar="CHECKPOINT", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--rows", "counts", type=click.IntRange(1, 256), multiple=True, default=(1, 2, 4, 8, 16, 32))
@click.option("--positions", type=click.IntRange(1), default=96, show_default=True, help="Before each row.")
@click.option("--quantise/--float", default=False, help="Round activations to FP8.")
@click.option("--seconds", type=float, default=2.0, show_default=True, help="For each number of rows.")
def main(folder: Path, counts: tuple[int, ...], positions: int, quantise: bool, seconds: float) -> None:
    click.echo("\n".join(f"{key:16} {value}" for key, value in circumstances().model_dump().items()))
    checkpoint, most = DecoderCheckpoint(folder), max(counts)
    decoder = checkpoint.config.decoder
    runner = CompiledRunner(
        checkpoint,
        max_batch_size=most,
        max_seq_len=positions + 1,
        max_rows=positions,
        quantize_activations=quantise,
    )
    rng = np.random.default_rng(0)
    tables = np.arange(runner.num_blocks, dtype=np.int32).reshape(most, -1)
    prompts = rng.integers(0, decoder.vocab_size, (most, positions)).astype(np.int32)
    ids = rng.integers(0, decoder.vocab_size, most).astype(np.int32)
    for table, prompt in zip(tables, prompts, strict=True):
        runner.prefill(table, 0, prompt, None)

    def step(first: int, count: int) -> NDArray[Any]:
        chosen = slice(first, first + count)
        return runner.decode(tables[chosen], np.full(count, positions, np.int32), ids[chosen])

    together = step(0, most).copy()
    if not all(np.array_equal(step(row, 1)[0], together[row]) for row in range(most)):
        raise click.ClickException("a row in company has other bits than alone: no figures")
    before = measure_limits(decoder, FP8)
    times: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(_TURNS):
        for count, found in times.items():
            until_s = time.perf_counter() + seconds / _TURNS
            while (begun_s := time.perf_counter()) < until_s:
                step(0, count)
                found.append(time.perf_counter() - begun_s)
    runner.close()
    after = measure_limits(decoder, FP8)
    reading = Limits(max(before.bytes_per_s, after.bytes_per_s), float("inf"))
    multiplying = Limits(float("inf"), max(before.flops_per_s, after.flops_per_s))
    click.echo(
        f"read {reading.bytes_per_s / 1e9:.1f} GB/s, float32 product {multiplying.flops_per_s / 1e9:.0f} GFLOP/s"
    )
    click.echo(f"{'rows':>4}{'least ms':>10}{'median ms':>11}{'reading ms':>12}{'products ms':>13}{'of limit':>10}")
    for count, found in times.items():
        read_s, product_s = (decode_step_s(decoder, one, count, positions, FP8) for one in (reading, multiplying))
        least_s, median_s = min(found), statistics.median(found)
        share = max(read_s, product_s) / median_s
        figures = (1e3 * least_s, 1e3 * median_s, 1e3 * read_s, 1e3 * product_s)
        click.echo("{:4}{:10.3f}{:11.3f}{:12.3f}{:13.3f}{:10.2f}".format(count, *figures, share))


if __name__ == "__main__":
    main()
