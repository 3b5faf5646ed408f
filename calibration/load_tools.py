"""perf_analyzer and aiperf: an environment for each, a load in its own words, and its figures in ours."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import distribution as installed
from pathlib import Path
from typing import Any

import click
import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from nvlm_trt.load.request import LoadRequest

__all__ = ["TIMEOUT_S", "Figures", "Round", "aiperf", "figures", "perf_analyzer"]

TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one round: ``e2e_ms`` is the median of a whole answer, ``ttft_ms`` of its first token.

    ``cpu_s`` is the processor time of the tool, its start included where it is a process of its own.
    """

    requests: int
    per_s: float
    e2e_ms: float
    ttft_ms: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Round:
    """What every tool is given."""

    requests: tuple[LoadRequest, ...]
    clients: int
    work: Path

    @property
    def answer_tokens(self) -> int:
        return self.requests[0].answer_tokens


def perf_analyzer(cache: Path, url: str) -> Callable[[Round], Figures]:
    program, libraries = install_perf_analyzer(cache)

    def measured(given: Round) -> Figures:
        data = [
            {
                "text_input": [one.prompt],
                "max_tokens": [one.answer_tokens],
                "min_tokens": [one.answer_tokens],
                "stream": [True],
            }
            for one in given.requests
        ]
        (given.work / "in.json").write_text(json.dumps({"data": data}), encoding="utf-8")
        exported = given.work / "perf.json"
        shapes = [part for name in data[0] for part in ("--shape", f"{name}:1")]
        command = [program, "-m", "ensemble", "-i", "grpc", "-u", url.removeprefix("grpc://"), "--streaming", "--async"]
        command += ["--input-data", given.work / "in.json", *shapes, "--concurrency-range", given.clients]
        command += ["--request-count", len(given.requests), "--profile-export-file", exported]
        cpu_s = _run(command, given.work, {"LD_LIBRARY_PATH": str(libraries)})
        (experiment,) = json.loads(exported.read_text(encoding="utf-8"))["experiments"]
        requests = experiment["requests"]
        begun = min(one["timestamp"] for one in requests)
        seconds = (max(one["response_timestamps"][-1] for one in requests) - begun) / 1e9
        whole = [(one["response_timestamps"][-1] - one["timestamp"]) / 1e6 for one in requests]
        first = [(one["response_timestamps"][0] - one["timestamp"]) / 1e6 for one in requests]
        return figures(seconds, whole, first, cpu_s)

    return measured


def aiperf(cache: Path, url: str, model_folder: Path) -> Callable[[Round], Figures]:
    program = install_aiperf(cache)
    chat = url.endswith("/v1")

    def measured(given: Round) -> Figures:
        tokenizer = given.work / "tokenizer"
        write_tokenizer(model_folder, tokenizer)
        prompts = given.work / "prompts.jsonl"
        prompts.write_text("".join(json.dumps({"text": one.prompt}) + "\n" for one in given.requests), encoding="utf-8")
        lengths = {"max_tokens": given.answer_tokens, "min_tokens": given.answer_tokens}
        if chat:
            way = ["-m", "nvlm-d", "--url", url.removesuffix("/v1"), "--endpoint-type", "chat"]
            extra: dict[str, Any] = lengths
        else:
            # The prompt is put in as JSON by the tool's own template.
            template = json.dumps(lengths | {"stream": True})[:-1] + ', "text_input": {{ text|tojson }}}'
            extra = {"payload_template": template, "response_field": "text_output"}
            way = ["-m", "ensemble", "--url", url, "--endpoint-type", "template"]
            way += ["--endpoint", "/v2/models/ensemble/generate_stream"]
        folder = given.work / "aiperf"
        command = [program, "profile", *way, "--streaming", "--extra-inputs", json.dumps(extra)]
        command += ["--input-file", prompts, "--custom-dataset-type", "single_turn", "--tokenizer", tokenizer]
        command += ["--concurrency", given.clients, "--request-count", len(given.requests), "--ui", "none"]
        command += ["--artifact-dir", folder]
        cpu_s = _run(command, given.work, {})
        (file,) = folder.rglob("profile_export_aiperf.json")
        told = json.loads(file.read_text(encoding="utf-8"))
        return Figures(
            requests=round(told["request_count"]["avg"]),
            per_s=told["request_throughput"]["avg"],
            e2e_ms=told["request_latency"]["p50"],
            ttft_ms=told["time_to_first_token"]["p50"],
            cpu_s=cpu_s,
        )

    return measured


def install_perf_analyzer(cache: Path) -> tuple[Path, Path]:
    folder = _environment(cache / "perf_analyzer", ["--no-deps", "tritonclient==2.51.0"])
    libraries = folder / "libraries"
    libraries.mkdir(exist_ok=True)
    bundled = Path(str(installed("nvidia-pytriton").locate_file("nvidia_pytriton.libs")))
    for name in ("libb64-*.so.0d", "libcudart-*.so.12*"):
        stem, _, ending = name.partition("-*")
        link = libraries / (stem + ending.removesuffix("*"))
        link.unlink(missing_ok=True)
        link.symlink_to(next(bundled.glob(name)))
    return folder / "bin" / "perf_analyzer", libraries


def install_aiperf(cache: Path) -> Path:
    return _environment(cache / "aiperf", ["aiperf==0.13.0"]) / "bin" / "aiperf"


def write_tokenizer(model_folder: Path, out: Path) -> None:
    """In the one form that aiperf reads from a folder; it counts tokens with it, and sends none."""
    out.mkdir()
    tokenizer = Tokenizer(BPE.from_file(str(model_folder / "vocab.json"), str(model_folder / "merges.txt")))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}', encoding="utf-8")
    (out / "config.json").write_text('{"model_type": "qwen2"}', encoding="utf-8")


def _environment(folder: Path, requirements: Sequence[str]) -> Path:
    """Made once; a half-made one is made again."""
    done = folder / "installed.txt"
    if not done.exists():
        click.echo(f"installing {requirements[-1]} into {folder}", err=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", *requirements], check=True)
        done.write_text(" ".join(requirements), encoding="utf-8")
    return folder


def _run(command: Sequence[object], folder: Path, environment: dict[str, str]) -> float:
    """Processor seconds of the tool and all its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [str(word) for word in command]
    log = folder / "tool.log"
    with log.open("wb") as file:
        code = subprocess.run(
            words, cwd=folder, env=os.environ | environment, stdout=file, stderr=file, timeout=TIMEOUT_S, check=False
        ).returncode
    if code:
        sys.stderr.write(log.read_text(encoding="utf-8", errors="replace")[-3000:])
        raise click.ClickException(f"{Path(words[0]).name} ended with {code}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def figures(seconds: float, whole_ms: Sequence[float], first_ms: Sequence[float], cpu_s: float) -> Figures:
    requests = len(whole_ms)
    return Figures(requests, requests / seconds, float(np.median(whole_ms)), float(np.median(first_ms)), cpu_s)
