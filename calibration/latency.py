"""How fast a deployment answers: time to first token, tokens a second under load, and what the ensemble itself costs.

    python calibration/latency.py DIR [--concurrency 1 --concurrency 8] [--repeats 5] [--json FILE]

Closed loop: each of C clients asks again as soon as it has its answer, over gRPC streaming, half the questions about a
picture. Every answer is held against the same question asked alone; one that differs ends the run with exit 1.

The ensemble's overhead is what a request for one token takes beyond the model's own time, which the decoder counts on
the metrics page: Triton, preprocessing, the empty vision step, scheduling, postprocessing and the client, one by one.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import click

from nvlm_trt.client import AskOptions, GrpcClient, open_client
from nvlm_trt.client.answer import Answer
from nvlm_trt.deploy.server import TritonServer
from nvlm_trt.pipeline.deployment import open_deployment

_MODEL_SECONDS = 'nvlm_decoder_seconds_total{part="model"}'
_METRICS_PERIOD_S = 0.3  # longer than the decoder takes between two updates

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
    """Milliseconds of a one-token request less the mean of its model time, over one door."""

    door: str
    requests: int
    p50: float
    p99: float
    model: float


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


def measure_overhead(server: TritonServer, url: str, requests: int) -> Overhead:
    options = AskOptions(max_tokens=1)
    question = QUESTIONS[1][0]
    milliseconds = []
    with open_client(url) as client:
        for _ in range(requests // 10):
            client.ask(question, options=options)
        before = _model_seconds(server.metrics_url)
        for _ in range(requests):
            start_s = time.perf_counter()
            client.ask(question, options=options)
            milliseconds.append((time.perf_counter() - start_s) * 1000)
        model = (_model_seconds(server.metrics_url) - before) * 1000 / requests
    beyond = [taken - model for taken in milliseconds]
    return Overhead(url.partition(":")[0], requests, quantile(beyond, 0.50), quantile(beyond, 0.99), model)


def _model_seconds(metrics_url: str) -> float:
    """The decoder's counter, once it rests: it is brought up to date a few times a second."""
    last = -1.0
    while True:
        with urllib.request.urlopen(metrics_url) as page:
            lines = page.read().decode().splitlines()
        value = next(float(line.split()[-1]) for line in lines if line.startswith(_MODEL_SECONDS))
        if value == last:
            return value
        last = value
        time.sleep(_METRICS_PERIOD_S)


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
    facts = circumstances()
    click.echo("\n".join(f"{key:16} {value}" for key, value in facts.items()))
    with TritonServer(deployment.folder, deployment.checkpoint) as server:
        try:
            loads = [measure_load(server.grpc_url, level, per_client, max_tokens, repeats) for level in levels]
        except WrongAnswer as wrong:
            sys.exit(f"wrong answer: {wrong}")
        overheads = [measure_overhead(server, url, overhead_requests) for url in (server.grpc_url, server.http_url)]
    click.echo(f"\n{'clients':>7} {'tokens/s':>22} {'first token p50 ms':>22} {'first token p99 ms':>22}")
    for load in loads:
        cells = (load.tokens_per_s, load.first_token_ms_p50, load.first_token_ms_p99)
        texts = (f"{middle:.0f} ({low:.0f}-{high:.0f})" for low, middle, high in cells)
        click.echo(f"{load.concurrency:7} " + " ".join(f"{text:>22}" for text in texts))
    for overhead in overheads:
        click.echo(
            f"ensemble overhead over {overhead.door}: p50 {overhead.p50:.2f} ms, p99 {overhead.p99:.2f} ms "
            f"(beside {overhead.model:.2f} ms of model time, {overhead.requests} requests)"
        )
    if json_file:
        report = {
            **facts,
            "loads": [asdict(load) for load in loads],
            "overheads": [asdict(overhead) for overhead in overheads],
        }
        json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
