"""Tokens per second, time to first token and the engine's own time per step of the embedded decoder engine.

    python scripts/bench_embedded.py build/demo/decoder/checkpoint

Every request has its own random prompt; all requests of a point start together, and a point is repeated. Before
anything is timed each prompt is answered alone, and every timed answer must equal that one token for token: a fast
wrong engine prints no figures. Beside the rate stands what the engine adds to the model: a step minus the time in the
runner.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from nvlm_trt.embedded.checkpoint import DecoderCheckpoint
from nvlm_trt.embedded.engine import EmbeddedEngine
from nvlm_trt.embedded.request import Emission, GenerationRequest
from scripts.facts import facts, show_facts

_COLUMNS = ("tokens_per_s", "first_token_ms", "step_ms", "own_us_per_step")


class _Answer:
    """A listener that keeps the tokens and when the first one came."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.first_at = 0.0
        self.ended = threading.Event()

    def __call__(self, emission: Emission) -> None:
        self.first_at = self.first_at or time.perf_counter()
        self.tokens += emission.tokens
        if emission.finish:
            self.ended.set()


def _ask(engine: EmbeddedEngine, requests: Sequence[GenerationRequest]) -> tuple[list[_Answer], dict[str, float]]:
    """All requests at once; their answers and what was measured."""
    answers = [_Answer() for _ in requests]
    before, started = engine.metrics(), time.perf_counter()
    for request, answer in zip(requests, answers, strict=True):
        engine.submit(request, answer)
    for answer in answers:
        answer.ended.wait()
    elapsed_s = time.perf_counter() - started
    after = engine.metrics()
    spent = {key: after[key] - before[key] for key in ("steps", "step_s", "model_s")}
    return answers, {
        "tokens_per_s": sum(len(answer.tokens) for answer in answers) / elapsed_s,
        "first_token_ms": 1e3 * statistics.median(answer.first_at - started for answer in answers),
        "step_ms": 1e3 * spent["step_s"] / spent["steps"],
        "own_us_per_step": 1e6 * (spent["step_s"] - spent["model_s"]) / spent["steps"],
    }


def _circumstances(folder: Path, runner: str, quantize: bool, threads: int | None) -> dict[str, Any]:
    decoder = DecoderCheckpoint(folder).config.decoder
    return facts(
        runner=runner,
        threads=threads or "all",
        precision="FP8 weights, " + ("FP8 activations" if quantize else "float32 activations") + ", float32 sums",
        decoder=f"{decoder.num_layers} layers, hidden {decoder.hidden_size}, vocabulary {decoder.vocab_size}",
    )


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--runner", default="compiled", show_default=True, help="A runner of the embedded engine.")
@click.option("--concurrency", type=int, multiple=True, default=(1, 8, 32), show_default=True)
@click.option("--prompt-tokens", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--new-tokens", type=click.IntRange(min=2), default=128, show_default=True)
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--threads", type=int, help="The runner's threads; all cores if not given.")
@click.option("--quantize-activations/--float-activations", default=True, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def main(
    folder: Path,
    runner: str,
    concurrency: tuple[int, ...],
    prompt_tokens: int,
    new_tokens: int,
    runs: int,
    threads: int | None,
    quantize_activations: bool,
    as_json: bool,
) -> None:
    circumstances = _circumstances(folder, runner, quantize_activations, threads)
    most = max(concurrency)
    engine = EmbeddedEngine(
        folder,
        runner=runner,
        max_batch_size=most,
        max_seq_len=prompt_tokens + new_tokens,
        max_num_tokens=2048 + most,
        max_waiting=most,
        reuse_prefixes=False,  # every run asks the same prompts
        quantize_activations=quantize_activations,
        threads=threads,
    )
    vocab_size = DecoderCheckpoint(folder).config.decoder.vocab_size
    prompts = np.random.default_rng(0).integers(0, vocab_size, (most, prompt_tokens)).astype(np.int32)
    requests = [GenerationRequest(str(index), ids, new_tokens) for index, ids in enumerate(prompts)]
    alone = [_ask(engine, [request])[0][0].tokens for request in requests]
    points: list[dict[str, Any]] = []
    for count in concurrency:
        measured = []
        for _ in range(runs):
            answers, figures = _ask(engine, requests[:count])
            if [answer.tokens for answer in answers] != alone[:count]:
                raise click.ClickException(f"{count} at once answered otherwise than one by one: nothing was measured.")
            measured.append(figures)
        spread = {name: sorted(figures[name] for figures in measured) for name in _COLUMNS}
        points.append(
            {"concurrency": count, **{name: (v[0], statistics.median(v), v[-1]) for name, v in spread.items()}}
        )
    engine.close()
    if as_json:
        click.echo(json.dumps({**circumstances, "points": points}, indent=2))
        return
    show_facts(circumstances)
    click.echo(
        f"{'':>14}  {most} answers equal the ones given alone; median of {runs} runs, least and most in brackets"
    )
    click.echo(f"{'at once':>14}  " + "".join(f"{name:>28}" for name in _COLUMNS))
    for point in points:
        cells = (f"{point[name][1]:.4g} ({point[name][0]:.4g}-{point[name][2]:.4g})" for name in _COLUMNS)
        click.echo(f"{point['concurrency']:>14}  " + "".join(f"{cell:>28}" for cell in cells))


if __name__ == "__main__":
    main()
