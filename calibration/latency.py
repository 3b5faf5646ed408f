"""How fast a deployment answers: time to first token, tokens a second under load, and what the ensemble itself costs.

    python calibration/latency.py DIR [--concurrency 1 --concurrency 8] [--repeats 5] [--json FILE]

Closed loop: each of C clients asks again as soon as it has its answer, over gRPC streaming, half the questions about a
picture. Every answer is held against the same question asked alone; one that differs ends the run with exit 1.

The ensemble's overhead is a difference within one run: a question for one token through the server, and the same token
ids given to the same decoder engine in this process, in turn. It is what Triton, preprocessing, the empty vision step,
postprocessing and the client add; the model's time is in both.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import click

from nvlm_trt.client import AskOptions, GrpcClient
from nvlm_trt.client.answer import Answer
from nvlm_trt.deploy.server import TritonServer
from nvlm_trt.embedded.engine import EmbeddedEngine
from nvlm_trt.embedded.request import Emission, GenerationRequest
from nvlm_trt.model.prompt import PromptStyle
from nvlm_trt.pipeline.deployment import open_deployment
from nvlm_trt.pipeline.recipe import Recipe, load_recipe
from nvlm_trt.serving.preprocess import Preprocessor

PICTURE = Path(__file__).parent / "pictures" / "rocket.jpg"
QUESTIONS: tuple[tuple[str, bool], ...] = (
    ("What is in this picture?", True),
    ("Name three colours.", False),
    ("Describe the image in one sentence.", True),
    ("Write a short greeting.", False),
)


class WrongAnswer(Exception):
    """An answer under load differed from the same question's answer alone."""


@dataclass(frozen=True, slots=True)
class Load:
    """One level of concurrency: medians over repeats, with the smallest and the largest. Times in milliseconds."""

    concurrency: int
    requests: int
    tokens_per_s: tuple[float, float, float]
    first_token_ms_p50: tuple[float, float, float]
    first_token_ms_p99: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Overhead:
    """Milliseconds that a request for one token spends outside the decoder, and the two medians behind it."""

    requests: int
    p50: float
    p99: float
    ensemble_p50: float
    engine_p50: float


def measure_load(url: str, concurrency: int, per_client: int, max_tokens: int, repeats: int) -> Load:
    picture = PICTURE.read_bytes()
    options = AskOptions(max_tokens=max_tokens)
    with GrpcClient(url) as client:
        alone = [client.ask(text, [picture] if seen else [], options).text for text, seen in QUESTIONS]
        rates, p50s, p99s = [], [], []
        for _ in range(repeats):
            answers, seconds = _closed_loop(client, concurrency, per_client, options, picture, alone)
            firsts = [answer.time_to_first_token_s * 1000 for answer in answers]
            rates.append(sum(answer.output_tokens for answer in answers) / seconds)
            p50s.append(quantile(firsts, 0.50))
            p99s.append(quantile(firsts, 0.99))
    return Load(concurrency, concurrency * per_client, spread(rates), spread(p50s), spread(p99s))


def _closed_loop(
    client: GrpcClient, concurrency: int, per_client: int, options: AskOptions, picture: bytes, alone: Sequence[str]
) -> tuple[list[Answer], float]:
    answers: list[Answer] = []
    failures: list[BaseException] = []

    def one_client(number: int) -> None:
        try:
            for turn in range(per_client):
                index = (number + turn) % len(QUESTIONS)
                text, seen = QUESTIONS[index]
                answer = client.ask(text, [picture] if seen else [], options)
                if answer.text != alone[index]:
                    raise WrongAnswer(f"{text!r} gave {answer.text!r}, and {alone[index]!r} alone")
                answers.append(answer)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one_client, args=(number,)) for number in range(concurrency)]
    start_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return answers, time.perf_counter() - start_s


def measure_overhead(url: str, folder: Path, recipe: Recipe, requests: int) -> Overhead:
    prompt, decoder = recipe.prompt, recipe.decoder
    preprocessor = Preprocessor.from_folder(
        folder / "model",
        style=PromptStyle(prompt.style),
        system=prompt.system,
        max_images=prompt.max_images,
        max_seq_len=decoder.max_seq_len,
    )
    question = QUESTIONS[1][0]
    prepared = preprocessor.prepare_client({"text_input": question, "max_tokens": 1})
    engine = EmbeddedEngine(
        folder / "decoder" / "checkpoint",
        max_batch_size=decoder.max_batch_size,
        max_seq_len=decoder.max_seq_len,
        max_num_tokens=decoder.max_num_tokens,
        quantize_activations=decoder.quantize_activations,
    )
    through, inside = [], []
    try:
        with GrpcClient(url) as client:
            for turn in range(requests + requests // 10):
                start_s = time.perf_counter()
                client.ask(question, options=AskOptions(max_tokens=1))
                middle_s = time.perf_counter()
                _one_token(engine, GenerationRequest(str(turn), prepared.input_ids, 1, end_id=prepared.end_id))
                through.append((middle_s - start_s) * 1000)
                inside.append((time.perf_counter() - middle_s) * 1000)
    finally:
        engine.close()
    through, inside = through[-requests:], inside[-requests:]  # the first tenth warms up
    engine_p50 = statistics.median(inside)
    added = [total - engine_p50 for total in through]
    return Overhead(requests, quantile(added, 0.50), quantile(added, 0.99), statistics.median(through), engine_p50)


def _one_token(engine: EmbeddedEngine, request: GenerationRequest) -> None:
    ended = threading.Event()

    def listen(emission: Emission) -> None:
        if emission.finish:
            ended.set()

    engine.submit(request, listen)
    ended.wait()


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)


def circumstances() -> dict[str, object]:
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("nvlm-trt", "onnxruntime", "nvidia-pytriton", "numpy")},
        "command": f"python {' '.join(sys.argv)}",
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--concurrency", "levels", type=click.IntRange(1, 1024), multiple=True, default=(1, 8, 32))
@click.option("--per-client", type=click.IntRange(1), default=8, show_default=True, help="Requests of each client.")
@click.option("--max-tokens", type=click.IntRange(1), default=64, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@click.option("--overhead-requests", type=click.IntRange(10), default=500, show_default=True)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Also write them here.")
def main(
    folder: Path,
    levels: tuple[int, ...],
    per_client: int,
    max_tokens: int,
    repeats: int,
    overhead_requests: int,
    json_file: Path | None,
) -> None:
    """Measure the embedded deployment in DIR on this machine, server and clients on the same cores."""
    deployment = open_deployment(folder)
    recipe = load_recipe(deployment.recipe)
    facts = circumstances()
    click.echo("\n".join(f"{key:16} {value}" for key, value in facts.items()))
    with TritonServer(deployment.folder, deployment.checkpoint) as server:
        try:
            loads = [measure_load(server.grpc_url, level, per_client, max_tokens, repeats) for level in levels]
        except WrongAnswer as wrong:
            sys.exit(f"wrong answer: {wrong}")
        overhead = measure_overhead(server.grpc_url, deployment.folder, recipe, overhead_requests)
    click.echo(f"\n{'clients':>7} {'tokens/s':>22} {'first token p50 ms':>22} {'first token p99 ms':>22}")
    for load in loads:
        cells = (load.tokens_per_s, load.first_token_ms_p50, load.first_token_ms_p99)
        texts = (f"{middle:.0f} ({low:.0f}-{high:.0f})" for low, middle, high in cells)
        click.echo(f"{load.concurrency:7} " + " ".join(f"{text:>22}" for text in texts))
    click.echo(
        f"\nensemble overhead of a one-token request: p50 {overhead.p50:.2f} ms, p99 {overhead.p99:.2f} ms "
        f"(through the server {overhead.ensemble_p50:.2f} ms, decoder alone {overhead.engine_p50:.2f} ms)"
    )
    if json_file:
        report = {**facts, "loads": [asdict(load) for load in loads], "overhead": asdict(overhead)}
        json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
