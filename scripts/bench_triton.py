"""The cost of serving: throughput through Triton beside the bare engine's, on the very same requests.

    python scripts/bench_triton.py DIR [--streams 32] [--max-tokens 64]

DIR is an embedded deployment. Each stream asks its own text question again as soon as it is answered. The two take
turns on the same cores: the engine in this process, then the whole ensemble over gRPC streaming with the client in this
process. Every answer through Triton must be the engine's, or the run ends. Beside the rates it prints the processor
time of each process, in cores, how many tokens a response carried, and how long a reader waited for more.

The client takes its share of the same cores, which is not the server's fault. So the engine runs a second time beside a
process that uses as much processor time as the client did; the rest of the difference is what serving costs.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np

from nvlm_trt.client import AskOptions, GrpcClient
from nvlm_trt.deploy.server import TritonServer
from nvlm_trt.embedded.engine import EmbeddedEngine
from nvlm_trt.embedded.request import Emission, GenerationRequest
from nvlm_trt.load.circumstances import circumstances
from nvlm_trt.model.tokenizer import NvlmTokenizer
from nvlm_trt.pipeline.deployment import open_deployment
from nvlm_trt.serving.preprocess import Prepared, Preprocessor
from scripts.burner import burning
from scripts.processes import MODELS, processes_below, processor_s

_WORDS = ["red", "green", "blue", "table", "chair", "window", "paper", "stone", "water", "light"]
_MOST_STREAMS, _MOST_POSITIONS = 32, 1024


@dataclass(slots=True)
class Round:
    """One closed loop: ``answers`` are the distinct tokens or texts each stream got."""

    answers: list[set[Any]]
    tokens: int = 0
    responses: int = 0
    seconds: float = 0.0
    first_s: list[float] = field(default_factory=list)
    gap_s: list[float] = field(default_factory=list)
    cores: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


def ask_engine(engine: EmbeddedEngine, prompts: Sequence[Prepared], turns: int) -> Round:
    result, done = Round([set() for _ in prompts]), threading.Event()
    used_s = time.process_time()
    open_ones = len(prompts)

    def start(stream: int, turn: int) -> None:
        prompt, tokens = prompts[stream], list[int]()

        def listen(emission: Emission) -> None:
            nonlocal open_ones
            tokens.extend(emission.tokens)
            if emission.finish is None:
                return
            result.tokens += len(tokens)
            result.answers[stream].add(tuple(tokens))
            if turn + 1 < turns:
                start(stream, turn + 1)
                return
            open_ones -= 1
            if not open_ones:
                done.set()

        end_id = prompt.end_id if prompt.end_id >= 0 else None
        request = GenerationRequest(f"{stream}-{turn}", prompt.input_ids, prompt.max_tokens, end_id=end_id)
        engine.submit(request, listen)

    began = time.perf_counter()
    for stream in range(len(prompts)):
        start(stream, 0)
    done.wait()
    result.seconds = time.perf_counter() - began
    result.cores = {"engine": (time.process_time() - used_s) / result.seconds}
    return result


def ask_triton(client: GrpcClient, questions: Sequence[str], max_tokens: int, turns: int) -> Round:
    result, lock, options = Round([set() for _ in questions]), threading.Lock(), AskOptions(max_tokens=max_tokens)
    faults: list[BaseException] = []

    def one_stream(stream: int) -> None:
        try:
            for _ in range(turns):
                with client.stream(questions[stream], (), options) as chunks:
                    came_s = [time.perf_counter() for _ in chunks]
                    answer = chunks.finish()
                with lock:
                    result.tokens += answer.output_tokens
                    result.responses += len(came_s)
                    result.gap_s += (later - one for one, later in pairwise(came_s))
                    result.first_s.append(answer.time_to_first_token_s)
                    result.answers[stream].add(answer.text)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=one_stream, args=(stream,)) for stream in range(len(questions))]
    before, began = _processor_s(), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result.seconds = time.perf_counter() - began
    if faults:
        raise faults[0]
    result.cores = {name: (used - before[name]) / result.seconds for name, used in _processor_s().items()}
    return result


def _processor_s() -> dict[str, float]:
    """Processor seconds so far of this process and of all below it, by what they are."""
    used = defaultdict(float, client=time.process_time())
    for pid, name in processes_below(os.getpid()).items():
        with suppress(OSError):
            used[name] += processor_s(pid)
    return used


@click.command(help=__doc__)
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--streams", type=click.IntRange(1, _MOST_STREAMS), default=32, show_default=True)
@click.option("--turns", type=click.IntRange(1), default=6, show_default=True, help="Questions of each stream.")
@click.option("--max-tokens", type=click.IntRange(2), default=64, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
def main(folder: Path, streams: int, turns: int, max_tokens: int, repeats: int) -> None:
    deployment = open_deployment(folder)
    click.echo("\n".join(f"{key:16} {value}" for key, value in circumstances().model_dump().items()))
    questions = [" ".join(_WORDS[(stream * 7 + word * 3) % 10] for word in range(20)) for stream in range(streams)]
    model = deployment.folder / "model"
    tokenizer = NvlmTokenizer.from_folder(model)
    preprocessor = Preprocessor.from_folder(model, max_images=1, max_seq_len=_MOST_POSITIONS)
    prompts = [
        preprocessor.prepare_client(
            {"text_input": np.array([question.encode()], np.object_), "max_tokens": np.array([max_tokens], np.int32)}
        )
        for question in questions
    ]
    engine = EmbeddedEngine(
        deployment.folder / "decoder" / "checkpoint",
        max_batch_size=_MOST_STREAMS,
        max_seq_len=_MOST_POSITIONS,
        max_num_tokens=2048,
    )
    rounds = []
    with TritonServer(deployment.folder, deployment.checkpoint) as server, GrpcClient(server.grpc_url) as client:
        ask_triton(client, questions[:1], max_tokens, 1)
        for _ in range(repeats):
            alone = ask_engine(engine, prompts, turns)
            served = ask_triton(client, questions, max_tokens, turns)
            with burning(served.cores["client"]):
                beside = ask_engine(engine, prompts, turns)
            wanted = [{tokenizer.decode_bytes(ids).decode("utf-8", "replace") for ids in got} for got in alone.answers]
            # A character that max_tokens cut is shown by neither.
            if [{text.rstrip("\ufffd") for text in got} for got in served.answers] != [
                {text.rstrip("\ufffd") for text in got} for got in wanted
            ]:
                raise click.ClickException("an answer through Triton is not the engine's: no figures")
            rounds.append((alone, served, beside))
    engine.close()
    click.echo(f"{streams} streams, {len(prompts[0].input_ids)} prompt tokens, {max_tokens} new, all answers equal")
    rows = {
        "engine tokens/s": [alone.rate for alone, _, _ in rounds],
        "beside a client": [beside.rate for _, _, beside in rounds],
        "triton tokens/s": [served.rate for _, served, _ in rounds],
        "triton / engine": [served.rate / alone.rate for alone, served, _ in rounds],
        "triton / beside": [served.rate / beside.rate for _, served, beside in rounds],
        "tokens a response": [served.tokens / served.responses for _, served, _ in rounds],
        "first token p50 ms": [1e3 * statistics.median(served.first_s) for _, served, _ in rounds],
        "gap p50 ms": [1e3 * statistics.median(served.gap_s or [0.0]) for _, served, _ in rounds],
        "longest gap ms": [1e3 * max(served.gap_s, default=0.0) for _, served, _ in rounds],
        "engine alone, cores": [alone.cores["engine"] for alone, _, _ in rounds],
    }
    for name, values in rows.items():
        least, middle, most = min(values), statistics.median(values), max(values)
        click.echo(f"{name:20} {middle:.4g} ({least:.4g}-{most:.4g})")
    for name in ("client", "server", *MODELS):
        cores = statistics.median(served.cores[name] for _, served, _ in rounds)
        click.echo(f"{name + ', cores':20} {cores:.3f}")


if __name__ == "__main__":
    main()
