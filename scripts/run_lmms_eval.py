"""Another project's harness against our server: lmms-eval reads signs through the OpenAI API, as our client does.

    python scripts/run_lmms_eval.py CACHE [--signs 200]

CACHE, a folder to keep, receives an environment with lmms-eval (2.4 GB; from the package index, once), a deployment of
``calibration/mini`` and the signs: held-out pictures of the mini model's exam. lmms-eval runs unmodified, with the task
in ``calibration/harnesses/signs``. Afterwards our own client asks the same server the same questions. Every answer must
be the same, and so the scores; otherwise the exit code is 1.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from nvlm_trt.client import AskOptions, open_client
from nvlm_trt.deploy.announcement import read_announcement
from nvlm_trt.mini.curriculum import STAGES
from nvlm_trt.mini.exam import ExamQuestion, draw_exam

ROOT = Path(__file__).parents[1]
LMMS_EVAL = "lmms_eval==0.7.3"
TASK = "nvlm_trt_signs"
MAX_TOKENS = 16
CLIENTS = 8


@click.command(help=__doc__)
@click.argument("cache", type=click.Path(file_okay=False, path_type=Path))
@click.option("--signs", type=click.IntRange(min=1), default=200, show_default=True)
def main(cache: Path, signs: int) -> None:
    cache = cache.resolve()
    python = environment(cache / "lmms-eval")
    questions = list(draw_exam(1, signs, next(stage for stage in STAGES if stage.name == "numbers")))
    write_task(cache / "signs", questions)
    deployment = cache / "deployment"
    nvlm_trt = [sys.executable, "-m", "nvlm_trt"]
    subprocess.run(
        [*nvlm_trt, "build", str(ROOT / "calibration/mini"), "--recipe", "embedded", "-o", str(deployment)], check=True
    )
    with server([*nvlm_trt, "serve", str(deployment)]) as urls:
        start_s = time.monotonic()
        theirs = run_lmms_eval(python, cache, urls["gateway"])
        harness_s = time.monotonic() - start_s
        start_s = time.monotonic()
        ours = ask_ourselves(urls["grpc"], questions)
        client_s = time.monotonic() - start_s
    right = [sum(map(same, answers, questions)) for answers in (theirs, ours)]
    differ = sum(a.strip() != b.strip() for a, b in zip(theirs, ours, strict=True))
    print(f"{LMMS_EVAL}: {right[0]} of {signs} right, {harness_s:.1f} s with its start, {CLIENTS} requests at once")
    print(f"our client: {right[1]} of {signs} right, {client_s:.1f} s, one request at a time")
    print(f"answers that differ: {differ}")
    sys.exit(differ > 0)


def same(answer: str, question: ExamQuestion) -> bool:
    return answer.strip() == question.example.answer


def environment(folder: Path) -> Path:
    """Its Python; made when it is not there, and away again if that fails."""
    python = folder / "bin/python"
    if not python.exists():
        try:
            venv.create(folder, with_pip=True)
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", LMMS_EVAL], check=True)
            # Not needed to ask a server, and where it was built for another torch nothing can be imported.
            subprocess.run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision"], check=True)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return python


def write_task(folder: Path, questions: Sequence[ExamQuestion]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "calibration/harnesses/signs", folder)
    with (folder / "signs.jsonl").open("w", encoding="utf-8") as file:
        for index, question in enumerate(questions):
            picture = folder / f"{index:04}.png"
            picture.write_bytes(question.png)
            record = {
                "image": str(picture),
                "question": question.example.question,
                "answer": question.example.answer,
            }
            file.write(json.dumps(record) + "\n")


@contextlib.contextmanager
def server(command: Sequence[str]) -> Iterator[dict[str, str]]:
    """A server on free ports and where each of its doors is."""
    ports = [option for door in ("http", "grpc", "metrics", "gateway") for option in (f"--{door}-port", "0")]
    process = subprocess.Popen([*command, *ports, "--json"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield read_announcement(process.stdout)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


def run_lmms_eval(python: Path, cache: Path, url: str) -> list[str]:
    """Its answers in the questions' order."""
    out = cache / "results"
    shutil.rmtree(out, ignore_errors=True)
    arguments = f"model_version=nvlm-d,base_url={url}/v1,api_key=none,num_concurrent={CLIENTS},timeout=300"
    command = [str(python), "-m", "lmms_eval", "eval", "--model", "openai", "--model_args", arguments, "--tasks", TASK]
    command += ["--include_path", str(cache / "signs"), "--batch_size", "1", "--log_samples", "--output_path", str(out)]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(cache / "hugging-face")}
    subprocess.run(command, cwd=cache / "signs", env={**os.environ, **offline}, check=True)
    (samples,) = out.rglob(f"*_samples_{TASK}.jsonl")
    lines = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    return [line["filtered_resps"] for line in sorted(lines, key=lambda line: int(line["doc_id"]))]


def ask_ourselves(url: str, questions: Sequence[ExamQuestion]) -> list[str]:
    options = AskOptions(max_tokens=MAX_TOKENS)
    with open_client(url) as client:
        return [client.ask(one.example.question, [one.png], options).text for one in questions]


if __name__ == "__main__":
    main()
