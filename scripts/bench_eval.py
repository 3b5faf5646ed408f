"""The cost of the accuracy harness, beside a bare loop of clients over the same questions.

    python scripts/bench_eval.py DIR [--questions 400] [--concurrency 8] [--repeats 5]

DIR is a deployment. Both ask one server the same short questions about one picture, equally many at once. The bare loop
keeps answers in a list; the harness reads a data set and writes a run's files. Rounds alternate, and both must get the
same answers. The ratio is questions a second of the harness over those of the loop.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from nvlm_trt.client import AskOptions, open_client
from nvlm_trt.deploy.server import TritonServer
from nvlm_trt.evaluate.data_set import DataSet, read_data_set
from nvlm_trt.evaluate.output_file import output_file
from nvlm_trt.evaluate.run import RunOptions, run
from nvlm_trt.evaluate.tasks import find_task
from nvlm_trt.pipeline.deployment import open_deployment
from nvlm_trt.resources import resource_folder
from scripts.facts import facts, show_facts

_TASK = find_task("TextVQA")
_MAX_TOKENS = 4


class _Silent:
    def started(self, total: int, kept: int) -> None:
        pass

    def advanced(self, done: int, errors: int) -> None:
        pass


def write_data(folder: Path, questions: int) -> None:
    shutil.copy(resource_folder("calibration") / "pictures" / "rocket.jpg", folder / "1.jpg")
    records = [
        {"image_id": "1", "question_id": number, "question": f"What is word {number}?", "answers": ["a"] * 10}
        for number in range(questions)
    ]
    (folder / _TASK.annotations[0]).write_text(json.dumps({"data": records}), encoding="utf-8")


def bare_loop(data: DataSet, url: str, concurrency: int) -> tuple[list[str], float]:
    picture = (data.folders[0] / "1.jpg").read_bytes()
    options = AskOptions(max_tokens=_MAX_TOKENS)
    begun_s = time.perf_counter()
    with open_client(url) as client, ThreadPoolExecutor(concurrency) as pool:
        answers = list(pool.map(lambda one: client.ask(one.prompt, [picture], options).text.strip(), data.samples))
    return answers, time.perf_counter() - begun_s


def harness(folder: Path, url: str, out: Path, concurrency: int) -> tuple[list[str], float]:
    begun_s = time.perf_counter()
    data = read_data_set(_TASK, folder)
    run(_TASK, data, url, out, RunOptions(concurrency=concurrency, max_tokens=_MAX_TOKENS), _Silent())
    seconds = time.perf_counter() - begun_s
    lines = output_file(out, _TASK.name, 0).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["answer"] for line in lines], seconds


def shown(values: Sequence[float], unit: str) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g}-{max(values):.3g}) {unit}"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--questions", default=400, show_default=True)
@click.option("--concurrency", default=8, show_default=True)
@click.option("--repeats", default=5, show_default=True)
def main(folder: Path, questions: int, concurrency: int, repeats: int) -> None:
    deployment = open_deployment(folder)
    with (
        tempfile.TemporaryDirectory() as work,
        TritonServer(deployment.folder, deployment.checkpoint) as server,
    ):
        write_data(Path(work), questions)
        data = read_data_set(_TASK, Path(work))
        wanted, _ = bare_loop(data, server.grpc_url, concurrency)
        bare: list[float] = []
        harnessed: list[float] = []
        for number in range(repeats):
            rounds = (
                (bare, bare_loop(data, server.grpc_url, concurrency)),
                (harnessed, harness(Path(work), server.grpc_url, Path(work) / f"run{number}", concurrency)),
            )
            for rates, (answers, seconds) in rounds:
                if answers != wanted:
                    sys.exit("an answer differs between the two: no figures")
                rates.append(questions / seconds)
    ratios = [ours / plain for ours, plain in zip(harnessed, bare, strict=True)]
    show_facts(facts())
    click.echo(f"{questions} questions, {concurrency} at once, {repeats} rounds; median (smallest-largest)")
    click.echo(f"bare loop  {shown(bare, 'questions/s')}")
    click.echo(f"harness    {shown(harnessed, 'questions/s')}")
    click.echo(f"ratio      {shown(ratios, '')}")


if __name__ == "__main__":
    main()
