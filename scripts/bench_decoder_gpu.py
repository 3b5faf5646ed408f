"""How near the torch runner comes to what a device can do, with the full-size decoder and no checkpoint.

    python scripts/bench_decoder_gpu.py                      # NVLM-D-72B's decoder, as many of its 80 layers as fit
    python scripts/bench_decoder_gpu.py --device cpu --preset tiny      # the same code, anywhere

Weights are random, seeded by their names, and made on the device. Printed are, each the median of several runs with
the least and the most:

* decode tokens per second at batch 1, 8, 32, 64, through the runner's own ``decode``: logits on the host, as the
  engine gets them. Beside it the share of the limit: bytes of weights, keys and values that a step must read, over
  the bandwidth of a large copy on this device (bytes read and written), measured in the same run.
* prefill tokens per second at 2k and 8k, and the share of the limit: floating-point operations of the matrix products
  and of attention over the rate of one large ``torch._scaled_mm`` of e4m3 matrices, measured in the same run.
* the same beside the simplest loop in torch (``reference.bf16_loop``) on a few layers, its time scaled to the runner's.
* where the time of a step goes, by kernel, from torch.profiler.

Before anything is timed, two layers of the same width are held against the plain form in float32, prompt and generated
tokens: logits must agree to ``_TOLERANCE`` of their deviation. With random weights every e4m3 border that bfloat16 tips
over shows, so that is a loose bound; a wrong scale, layout, table or mask gives 1.4.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from nvlm_trt import __version__
from nvlm_trt.embedded.config import CheckpointConfig, linear_shapes
from nvlm_trt.embedded.pytorch.arithmetic import Arithmetic
from nvlm_trt.embedded.pytorch.ops import PlainOps
from nvlm_trt.embedded.pytorch.random_weights import RandomWeights
from nvlm_trt.embedded.pytorch.runner import MakeOps, TorchRunner
from nvlm_trt.embedded.pytorch.sizes import RunnerSizes
from nvlm_trt.model.config import DecoderConfig
from nvlm_trt.reference.bf16_loop import Bf16Loop

_TOLERANCE = 0.3
_ARITHMETIC = Arithmetic(dtype="bfloat16", fp8="hardware")
_PLAIN = Arithmetic(dtype="float32", fp8="emulated")


@dataclasses.dataclass(frozen=True, slots=True)
class _Preset:
    decoder: DecoderConfig
    batches: tuple[int, ...]
    context: int
    prompts: tuple[int, ...]
    product: int  # rows and columns of the matrices whose product sets the rate
    copy_bytes: int
    loop_layers: int


_PRESETS = {
    "full": _Preset(
        DecoderConfig(8192, 29568, 80, 64, 8, 128, 1e-6, 1e6, 32768, 152064),
        (1, 8, 32, 64), 1024, (2048, 8192), 8192, 4 << 30, 8,
    ),
    "tiny": _Preset(
        DecoderConfig(64, 160, 3, 4, 2, 16, 1e-6, 1e6, 512, 512), (1, 3), 40, (48,), 256, 1 << 20, 2
    ),
}  # fmt: skip


@dataclasses.dataclass(slots=True)
class Bench:
    preset: _Preset
    device: torch.device
    runs: int

    def seconds(self, run: Callable[[], object], times: int = 1) -> list[float]:
        """Of one of ``times`` calls, for each run, sorted; after one that is not counted."""
        run()
        measured = []
        for _ in range(self.runs):
            self._wait()
            started = time.perf_counter()
            for _ in range(times):
                run()
            self._wait()
            measured.append((time.perf_counter() - started) / times)
        return sorted(measured)

    def copy_bandwidth(self) -> list[float]:
        source = torch.zeros(self.preset.copy_bytes, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return [2 * len(source) / seconds for seconds in reversed(self.seconds(lambda: target.copy_(source), 3))]

    def fp8_rate(self) -> list[float]:
        size = self.preset.product
        left, right = (torch.randn(size, size, device=self.device).to(torch.float8_e4m3fn) for _ in range(2))
        one = torch.ones((), device=self.device)

        def product() -> Tensor:
            return torch._scaled_mm(left, right.T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

        return [2 * size**3 / seconds for seconds in reversed(self.seconds(product, 3))]

    def runner(self, num_layers: int, arithmetic: Arithmetic = _ARITHMETIC, ops: MakeOps | None = None) -> TorchRunner:
        preset = self.preset
        decoder = dataclasses.replace(preset.decoder, num_layers=num_layers)
        linears = [f"transformer.layers.{i}.{name}" for i in range(num_layers) for name in linear_shapes(decoder)]
        longest = max(preset.context + 64, *preset.prompts)
        sizes = RunnerSizes(
            max_seq_len=longest, max_batch_size=preset.batches[-1], max_rows=max(preset.prompts),
            num_blocks=max(preset.batches[-1] * -(-(preset.context + 64) // 32), -(-longest // 32)),
        )  # fmt: skip
        config = CheckpointConfig(decoder, "BF16", frozenset(linears))
        source = RandomWeights(decoder.hidden_size)
        return TorchRunner(config, source, sizes, device=self.device, arithmetic=arithmetic, make_ops=ops)

    def disagreement(self) -> float:
        """The runner against the plain form in float32, two layers: root mean square over the logits' deviation."""
        rng, (most, width) = np.random.default_rng(0), (self.preset.batches[-1], 4)
        prompts = rng.integers(0, self.preset.decoder.vocab_size, (min(most, 3), 70)).astype(np.int32)
        told = []
        for runner in (self.runner(2), self.runner(2, _PLAIN, PlainOps)):
            tables = np.random.default_rng(1).permutation(runner.num_blocks).astype(np.int32)
            tables = tables[: len(prompts) * width].reshape(len(prompts), width)
            for ids, blocks in zip(prompts, tables, strict=True):
                told.append(runner.prefill(blocks, 0, ids[:-2], None).copy())
            for position in (68, 69):
                lengths = np.full(len(prompts), position, np.int32)
                told += list(runner.decode(tables, lengths, prompts[:, position]).copy())
        ours, plain = np.split(np.stack(told), 2)
        return float(np.sqrt(np.square(ours - plain).mean()) / plain.std())

    def free(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def layers_that_fit(preset: _Preset, device: torch.device) -> int:
    """Layers, with their keys and values, in the memory that is free, less a tenth and the largest activations."""
    decoder = preset.decoder
    if device.type != "cuda":
        return decoder.num_layers
    free = 0.9 * torch.cuda.mem_get_info(device)[0] - 4 * decoder.vocab_size * decoder.hidden_size
    free -= 8 * max(preset.prompts) * (2 * decoder.intermediate_size + 4 * decoder.hidden_size)
    positions = max(preset.batches[-1] * (preset.context + 64), *preset.prompts)
    per_layer = layer_weights(decoder) + 4 * positions * decoder.num_kv_heads * decoder.head_dim
    return max(2, min(decoder.num_layers, int(free / per_layer)))


def layer_weights(decoder: DecoderConfig) -> int:  # as many bytes in FP8
    return sum(out * width for out, width in linear_shapes(decoder).values())


def circumstances(device: torch.device) -> dict[str, str]:
    cuda = device.type == "cuda"
    return {
        "command": " ".join(["python", "scripts/bench_decoder_gpu.py", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
        "nvlm_trt": __version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def measure_decode(bench: Bench, runner: TorchRunner, num_layers: int, bandwidth: float) -> list[dict[str, Any]]:
    preset, decoder = bench.preset, bench.preset.decoder
    width = -(-(preset.context + 64) // runner.block_size)
    steady = num_layers * layer_weights(decoder) + 2 * decoder.vocab_size * decoder.hidden_size
    points = []
    for batch in preset.batches:
        tables = np.random.default_rng(0).permutation(runner.num_blocks)[: batch * width].astype(np.int32)
        ids, lengths = np.arange(batch, dtype=np.int32), np.full(batch, preset.context, np.int32)
        tables = tables.reshape(batch, width)
        spent = bench.seconds(lambda: runner.decode(tables, lengths, ids), 8)  # noqa: B023 - called at once
        bytes_read = steady + 4 * num_layers * batch * preset.context * decoder.num_kv_heads * decoder.head_dim
        points.append(_point(f"decode, batch {batch}", batch, spent, bytes_read / bandwidth))
    return points


def measure_prefill(bench: Bench, runner: TorchRunner, num_layers: int, rate: float) -> list[dict[str, Any]]:
    decoder, points = bench.preset.decoder, []
    for count in bench.preset.prompts:
        blocks = np.arange(-(-count // runner.block_size), dtype=np.int32)
        ids = (np.arange(count) % decoder.vocab_size).astype(np.int32)
        spent = bench.seconds(lambda: runner.prefill(blocks, 0, ids, None))  # noqa: B023 - called at once
        # Attention: two products over half of the square, for each query head.
        operations = 2 * num_layers * (layer_weights(decoder) * count + count**2 * decoder.q_size)
        points.append(_point(f"prefill, {count} tokens", count, spent, operations / rate))
    return points


def measure_loop(bench: Bench, num_layers: int) -> dict[str, float]:
    """Tokens per second of the BF16 loop, by the name of the point, as if it had ``num_layers``."""
    preset, rates = bench.preset, {}
    with torch.inference_mode():
        for batch, rows in [*((batch, 1) for batch in preset.batches), *((1, count) for count in preset.prompts)]:
            start = preset.context if rows == 1 else 0
            size = {"num_layers": preset.loop_layers, "batch": batch, "length": start + rows}
            loop = Bf16Loop(preset.decoder, linear_shapes(preset.decoder), **size, device=bench.device)
            bench.free()  # the one before
            hidden = torch.randn(batch, rows, preset.decoder.hidden_size, device=bench.device, dtype=torch.bfloat16)
            spent = statistics.median(bench.seconds(lambda: loop(hidden, start), 3))  # noqa: B023 - called at once
            name = f"decode, batch {batch}" if rows == 1 else f"prefill, {rows} tokens"
            rates[name] = batch * rows / (spent * num_layers / preset.loop_layers)
    return rates


def kernel_table(bench: Bench, runner: TorchRunner) -> str:
    from torch.profiler import ProfilerActivity, profile

    cuda = bench.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    blocks = np.arange(-(-bench.preset.context // runner.block_size) + 1, dtype=np.int32)
    with profile(activities=activities) as profiler:
        for _ in range(3):
            runner.decode(blocks[None], np.array([bench.preset.context], np.int32), np.zeros(1, np.int32))
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    table: str = profiler.key_averages().table(sort_by=key, row_limit=15, max_name_column_width=60)
    return table


def _point(name: str, tokens: int, spent: list[float], least_s: float) -> dict[str, Any]:
    rates = [tokens / seconds for seconds in reversed(spent)]
    middle = statistics.median(spent)
    return {
        "name": name,
        "tokens_per_s": [rates[0], tokens / middle, rates[-1]],
        "step_ms": 1e3 * middle,
        "limit_ms": 1e3 * least_s,
        "of_limit": least_s / middle,
    }


@click.command(help=__doc__)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--preset", type=click.Choice(list(_PRESETS)), default="full", show_default=True)
@click.option("--layers", type=click.IntRange(2, 80), help="As many as fit, if not given.")
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def main(device: str, preset: str, layers: int | None, runs: int, as_json: bool) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("PyTorch finds no CUDA device. Try --device cpu --preset tiny.")
    place = torch.device(device, 0) if device == "cuda" else torch.device(device)
    bench = Bench(_PRESETS[preset], place, runs)
    error = bench.disagreement()
    bench.free()
    if not error < _TOLERANCE:
        raise click.ClickException(f"Two layers differ from the plain form by {error:.3g}: nothing was measured.")
    bandwidth, rate = bench.copy_bandwidth(), bench.fp8_rate()
    bench.free()
    num_layers = layers or layers_that_fit(bench.preset, place)
    loop = measure_loop(bench, num_layers)
    bench.free()
    runner = bench.runner(num_layers)
    points = measure_decode(bench, runner, num_layers, statistics.median(bandwidth))
    points += measure_prefill(bench, runner, num_layers, statistics.median(rate))
    for point in points:
        point["loop_tokens_per_s"] = loop[point["name"]]
    told = {
        **circumstances(place),
        "layers": num_layers,
        "context": bench.preset.context,
        "runs": runs,
        "disagreement": error,
        "copy_gb_per_s": [value / 1e9 for value in bandwidth],
        "fp8_tflop_per_s": [value / 1e12 for value in rate],
    }
    if as_json:
        click.echo(json.dumps({**told, "points": points}, indent=2))
        return
    for name, value in told.items():
        shown = " ".join(f"{one:.4g}" for one in value) if isinstance(value, list) else value
        click.echo(f"{name:>16}  {shown}")
    click.echo(
        f"{'':>16}{'tokens/s, median (least-most)':>36}{'step ms':>10}{'limit ms':>10}{'share':>8}{'x BF16 loop':>13}"
    )
    for point in points:
        least, middle, most = point["tokens_per_s"]
        click.echo(
            f"{point['name']:>20}{f'{middle:.4g} ({least:.4g}-{most:.4g})':>32}{point['step_ms']:>10.3f}"
            f"{point['limit_ms']:>10.3f}{point['of_limit']:>8.1%}{middle / point['loop_tokens_per_s']:>13.2f}"
        )
    click.echo(kernel_table(bench, runner))


if __name__ == "__main__":
    main()
