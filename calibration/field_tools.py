"""The same load by this project's harness and by the field's own tools, on one server, in turns.

    python calibration/field_tools.py DIR --cache FOLDER [--clients 4] [--requests 120] [--rounds 3]

DIR is an embedded deployment. In closed loops of the same number of clients, each tool sends the same requests in the
same order: this harness over gRPC, over Triton's HTTP and over the gateway; perf_analyzer 2.51 over gRPC; aiperf 0.13
over Triton's HTTP and over the gateway. Every prompt was asked before, so that all find the same caches. The server
has one half of the cores and the tools the other: aiperf uses most of one. Printed are
requests a second and the median time of a whole answer, and each tool's ratio to ours over the same door.

Both tools are installed from PyPI into environments of their own in FOLDER, once. perf_analyzer's later builds need a
newer C library than Debian 12 has; this one comes with tritonclient 2.51 and two libraries of nvidia-pytriton.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from calibration.load_tools import TIMEOUT_S, Figures, Round, aiperf, figures, perf_analyzer
from nvlm_trt.deploy.server import TritonServer
from nvlm_trt.load.circumstances import circumstances
from nvlm_trt.load.doors.registry import door_of
from nvlm_trt.load.drive import drive
from nvlm_trt.load.mix import read_mix
from nvlm_trt.load.record import Record
from nvlm_trt.load.request import Planned
from nvlm_trt.load.schedule import ClosedLoad
from nvlm_trt.load.target import started_gateway
from nvlm_trt.pipeline.deployment import open_deployment

_MIX = Path(__file__).parent / "mixes" / "text.toml"


def ours(url: str) -> Callable[[Round], Figures]:
    async def asked(given: Round) -> Figures:
        door = door_of(url).open(url, TIMEOUT_S)
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
        first = [record.ttft_ms or 0.0 for record in records]
        return figures(seconds, [record.e2e_ms for record in records], first, driven.cpu_s)

    return lambda given: asyncio.run(asked(given))


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
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    os.sched_setaffinity(0, cores[half:])
    with (
        tempfile.TemporaryDirectory() as work,
        TritonServer(deployment.folder, deployment.checkpoint) as server,
        started_gateway(server.grpc_url) as gateway,
    ):
        os.sched_setaffinity(0, cores[:half] or cores)
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
        told: dict[tuple[str, str], list[Figures]] = {key: [] for key in tools}
        for number in range(rounds):
            for (door, tool), measured in tools.items():
                place = Path(work) / f"{number}-{door}-{tool}".replace(" ", "-")
                place.mkdir()
                click.echo(f"round {number + 1} of {rounds}: {tool} over {door}", err=True)
                told[door, tool].append(measured(Round(drawn, clients, place)))
    _report(told, clients, requests, rounds, json_file)


def _report(
    figures: dict[tuple[str, str], list[Figures]], clients: int, requests: int, rounds: int, json_file: Path | None
) -> None:
    facts = circumstances()
    click.echo(f"{facts.cpu}, {facts.cores} cores, {facts.system}, Python {facts.python}, {facts.packages}")
    click.echo(f"{clients} clients, {requests} requests a round, {rounds} rounds: median (least-most)")
    heads = f"{'requests/s':>24} {'whole p50, ms':>24} {'first p50, ms':>24} {'ratios to ours':>20} {'cpu, s':>8}"
    click.echo(f"{'door':12} {'tool':14} {heads}")
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
        click.echo(f"{door:12} {tool:14} {cells} {told:>20} {statistics.median(row.cpu_s for row in rows):8.1f}")
    if json_file:
        data = {
            "circumstances": facts.model_dump(),
            "clients": clients,
            "figures": [
                {
                    "door": door,
                    "tool": tool,
                    "rounds": [asdict(row) for row in rows],
                }
                for (door, tool), rows in figures.items()
            ],
        }
        json_file.write_text(json.dumps(data, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
