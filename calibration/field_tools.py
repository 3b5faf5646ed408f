"""The same load by this project's harness and by the field's own tools, on one server, in turns.

    python calibration/field_tools.py DIR --cache FOLDER [--clients 4] [--requests 120] [--rounds 3]

DIR is an embedded deployment. In closed loops of the same number of clients, each tool sends the same requests in the
same order: this harness over gRPC, over Triton's HTTP and over the gateway; perf_analyzer 2.51 over gRPC; aiperf 0.13
over Triton's HTTP and over the gateway. Every prompt was asked before, so that all find the same caches. Printed are
requests a second and the median time of a whole answer, and each tool's ratio to ours over the same door.

Both tools are installed from PyPI into environments of their own in FOLDER, once. perf_analyzer's later builds need a
newer C library than Debian 12 has; this one comes with tritonclient 2.51 and two libraries of nvidia-pytriton.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import distribution as installed
from pathlib import Path
from typing import Any

import click
import numpy as np
from nvlm_trt.model.tokenizer_files import write_fast_tokenizer

from nvlm_trt.deploy.server import TritonServer
from nvlm_trt.load.circumstances import circumstances
from nvlm_trt.load.doors.registry import door_of
from nvlm_trt.load.drive import drive
from nvlm_trt.load.mix import read_mix
from nvlm_trt.load.record import Record
from nvlm_trt.load.request import LoadRequest, Planned
from nvlm_trt.load.schedule import ClosedLoad
from nvlm_trt.load.target import started_gateway
from nvlm_trt.pipeline.deployment import open_deployment

_MIX = Path(__file__).parent / "mixes" / "text.toml"
_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one round: ``e2e_ms`` is the median of a whole answer, ``ttft_ms`` of its first token."""

    requests: int
    per_s: float
    e2e_ms: float
    ttft_ms: float


@dataclass(frozen=True, slots=True)
class Round:
    """What every tool is given."""

    requests: tuple[LoadRequest, ...]
    clients: int
    work: Path

    @property
    def answer_tokens(self) -> int:
        return self.requests[0].answer_tokens


def ours(url: str) -> Callable[[Round], Figures]:
    async def asked(given: Round) -> Figures:
        door = door_of(url).open(url, _TIMEOUT_S)
        try:
            planned = [(Planned(one), door.prepare(one, [])) for one in given.requests]
            driven = await drive(door, planned, given.clients, asyncio.Event())
        finally:
            await door.close()
        records = [Record.of(taken, driven.start_s, None) for taken in driven.done]
        failed = [record.code for record in records if record.code]
        if failed:
            raise click.ClickException(f"{len(failed)} of our requests failed: {failed[0]}")
        seconds = max(record.end_ms for record in records) / 1e3
        return _figures(seconds, [record.e2e_ms for record in records], [record.ttft_ms or 0.0 for record in records])

    return lambda given: asyncio.run(asked(given))


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
        _run(command, given.work, {"LD_LIBRARY_PATH": str(libraries)})
        (experiment,) = json.loads(exported.read_text(encoding="utf-8"))["experiments"]
        requests = experiment["requests"]
        begun = min(one["timestamp"] for one in requests)
        seconds = (max(one["response_timestamps"][-1] for one in requests) - begun) / 1e9
        whole = [(one["response_timestamps"][-1] - one["timestamp"]) / 1e6 for one in requests]
        return _figures(seconds, whole, [(one["response_timestamps"][0] - one["timestamp"]) / 1e6 for one in requests])

    return measured


def aiperf(cache: Path, url: str, model_folder: Path) -> Callable[[Round], Figures]:
    program = install_aiperf(cache)
    chat = url.endswith("/v1")

    def measured(given: Round) -> Figures:
        tokenizer = given.work / "tokenizer"
        write_fast_tokenizer(model_folder, tokenizer)
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
        _run(command, given.work, {})
        (file,) = folder.rglob("profile_export_aiperf.json")
        told = json.loads(file.read_text(encoding="utf-8"))
        return Figures(
            requests=round(told["request_count"]["avg"]),
            per_s=told["request_throughput"]["avg"],
            e2e_ms=told["request_latency"]["p50"],
            ttft_ms=told["time_to_first_token"]["p50"],
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


def _environment(folder: Path, requirements: Sequence[str]) -> Path:
    """Made once; a half-made one is made again."""
    done = folder / "installed.txt"
    if not done.exists():
        click.echo(f"installing {requirements[-1]} into {folder}", err=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", *requirements], check=True)
        done.write_text(" ".join(requirements), encoding="utf-8")
    return folder


def _run(command: Sequence[object], folder: Path, environment: dict[str, str]) -> None:
    words = [str(word) for word in command]
    log = folder / "tool.log"
    with log.open("wb") as file:
        code = subprocess.run(
            words, cwd=folder, env=os.environ | environment, stdout=file, stderr=file, timeout=_TIMEOUT_S, check=False
        ).returncode
    if code:
        sys.stderr.write(log.read_text(encoding="utf-8", errors="replace")[-3000:])
        raise click.ClickException(f"{Path(words[0]).name} ended with {code}")


def _figures(seconds: float, whole_ms: Sequence[float], first_ms: Sequence[float]) -> Figures:
    return Figures(len(whole_ms), len(whole_ms) / seconds, float(np.median(whole_ms)), float(np.median(first_ms)))


def _shown(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.4g} ({min(values):.4g}-{max(values):.4g})"


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--cache", required=True, type=click.Path(path_type=Path), help="Where the tools' environments are made.")
@click.option(
    "--mix", "mix_file", type=click.Path(path_type=Path), default=_MIX, help="Of text, with one answer length."
)
@click.option("--clients", type=click.IntRange(1), default=4, show_default=True)
@click.option("--requests", type=click.IntRange(1), default=120, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures there too.")
def main(
    folder: Path,
    cache: Path,
    mix_file: Path,
    clients: int,
    requests: int,
    rounds: int,
    seed: int,
    json_file: Path | None,
) -> None:
    """Compare the harness with perf_analyzer and aiperf on the deployment in DIR."""
    cache = cache.resolve()
    drawn = tuple(one.request for one in ClosedLoad(read_mix(mix_file), clients).plan(seed, "tools", requests))
    if any(one.pictures or one.answer_tokens != drawn[0].answer_tokens for one in drawn):
        raise click.UsageError("the tools can be given text with one answer length alone")
    deployment = open_deployment(folder)
    with (
        tempfile.TemporaryDirectory() as work,
        TritonServer(deployment.folder, deployment.checkpoint) as server,
        started_gateway(server.grpc_url) as gateway,
    ):
        urls = {"gRPC": server.grpc_url, "Triton HTTP": server.http_url, "gateway": f"{gateway}/v1"}
        model = deployment.folder / "model"
        tools: dict[tuple[str, str], Callable[[Round], Figures]] = {
            ("gRPC", "ours"): ours(urls["gRPC"]),
            ("gRPC", "perf_analyzer"): perf_analyzer(cache, urls["gRPC"]),
            ("Triton HTTP", "ours"): ours(urls["Triton HTTP"]),
            ("Triton HTTP", "aiperf"): aiperf(cache, urls["Triton HTTP"], model),
            ("gateway", "ours"): ours(urls["gateway"]),
            ("gateway", "aiperf"): aiperf(cache, urls["gateway"], model),
        }
        ours(urls["gRPC"])(Round(drawn, clients, Path(work)))
        figures: dict[tuple[str, str], list[Figures]] = {key: [] for key in tools}
        for number in range(rounds):
            for (door, tool), measured in tools.items():
                place = Path(work) / f"{number}-{door}-{tool}".replace(" ", "-")
                place.mkdir()
                click.echo(f"round {number + 1} of {rounds}: {tool} over {door}", err=True)
                figures[door, tool].append(measured(Round(drawn, clients, place)))
    _report(figures, clients, requests, rounds, json_file)


def _report(
    figures: dict[tuple[str, str], list[Figures]], clients: int, requests: int, rounds: int, json_file: Path | None
) -> None:
    facts = circumstances()
    click.echo(f"{facts.cpu}, {facts.cores} cores, {facts.system}, Python {facts.python}, {facts.packages}")
    click.echo(f"{clients} clients, {requests} requests a round, {rounds} rounds: median (least-most)")
    head = (
        f"{'door':12} {'tool':14} {'requests/s':>24} {'whole p50, ms':>24} {'first p50, ms':>24} {'ratios to ours':>20}"
    )
    click.echo(head)
    for (door, tool), rows in figures.items():
        columns = [[getattr(row, name) for row in rows] for name in ("per_s", "e2e_ms", "ttft_ms")]
        base = figures[door, "ours"]
        ratios = (
            statistics.median([getattr(row, name) for row in rows])
            / statistics.median([getattr(row, name) for row in base])
            for name in ("per_s", "e2e_ms", "ttft_ms")
        )
        cells = " ".join(f"{_shown(values):>24}" for values in columns)
        told = " ".join(f"{ratio:6.2f}" for ratio in ratios) if tool != "ours" else ""
        click.echo(f"{door:12} {tool:14} {cells} {told:>20}")
    if json_file:
        data = {
            "circumstances": facts.model_dump(),
            "clients": clients,
            "figures": [
                {
                    "door": door,
                    "tool": tool,
                    "rounds": [[row.requests, row.per_s, row.e2e_ms, row.ttft_ms] for row in rows],
                }
                for (door, tool), rows in figures.items()
            ],
        }
        json_file.write_text(json.dumps(data, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
