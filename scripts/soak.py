"""A deployment under 1.5 times its capacity, for as long as one likes.

    python scripts/soak.py DIR [--minutes 20] [--seed 0] [--json FILE]

The service is ``nvlm-trt serve DIR``, as its users run it. First every question is asked alone, of a separate server,
so that its caches do not help later. Then closed loops find the capacity, the best rate of right answers. Then requests
arrive at 1.5 times that rate, however many are still open, most at the gateway, some straight at Triton. Texts and
pictures, greedy and sampled, all come from the seed.

Five claims are judged at the end: every answer is the one given alone, token by token where log probabilities were
asked for; nothing fails except by refusal, and refusals come at once; goodput holds; no process grows; nothing is left.
Speed and growth are only judged from ten minutes up. Exits with 1 if a claim does not hold. How it is counted:
docs/measurements/soak.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from nvlm_trt.client.async_grpc_client import AsyncGrpcClient
from nvlm_trt.deploy.server import TritonServer
from nvlm_trt.load.circumstances import circumstances
from nvlm_trt.pipeline.deployment import open_deployment
from scripts.chat_client import ChatClient
from scripts.processes import processes_below, processor_s_by_name, program
from scripts.soak_claims import Claim, goodput, judge, quantile
from scripts.soak_left import files_of, left_behind, own_temporary_folder, shared_memory_prefixes, still_busy
from scripts.soak_load import Door, Pool, Run, closed_loop, open_loop, over_gateway, over_grpc
from scripts.soak_memory import MemoryWatch, growth
from scripts.soak_questions import Answer, Question, draw_questions

_PORTS = tuple(f"--{door}-port=0" for door in ("http", "grpc", "metrics", "gateway", "health"))
_NICE = 10  # the load and the doors share its cores
_OVERLOAD = 1.5
_GRPC_SHARE = 0.2
_LONG_MIN = 10.0
_STEP_S = 60.0  # as long as a window of the run: the best of a few short steps would be a lucky one


async def ask_alone(url: str, questions: Sequence[Question]) -> dict[int, tuple[Any, ...]]:
    async with _grpc(url) as door:
        alone = {}
        for question in questions:
            answer = Answer()
            await door(question, answer)
            alone[question.number] = answer.key()
        return alone


async def load(
    grpc_url: str, gateway_url: str, pool: Pool, levels: Sequence[int], seconds: float, seed: int
) -> tuple[tuple[float, float], Run]:
    """The peak of the closed loops in good answers a second, before and after the open loop at 1.5 times the first."""
    chat, draw = ChatClient(gateway_url), random.Random(f"{seed}/capacity")
    async with _grpc(grpc_url) as straight:
        doors = {"gateway": (1 - _GRPC_SHARE, over_gateway(chat)), "gRPC": (_GRPC_SHARE, straight)}
        step_s, wrong = max(1.0, min(_STEP_S, seconds / 12)), list[str]()

        async def peak(levels: Sequence[int]) -> tuple[float, int]:
            rates = []
            for clients in levels:
                run = await closed_loop(doors["gateway"][1], "gateway", pool, clients, step_s, draw)
                rates.append((len(run.good) / run.seconds, clients))
                wrong.extend(run.wrong)
                click.echo(f"{clients} clients: {rates[-1][0]:.1f} right answers a second", err=True)
            return max(rates)

        before, clients = await peak(levels)
        before = before or 1.0  # slower than a step is long
        click.echo(f"{_OVERLOAD * before:.1f} requests a second for {seconds:.0f} s", err=True)
        run = await open_loop(doors, pool, _OVERLOAD * before, seconds, seed)
        after, _ = await peak([clients])
        chat.close()
    run.wrong = wrong + run.wrong
    return (before, after), run


@contextlib.asynccontextmanager
async def _grpc(url: str) -> AsyncIterator[Door]:
    client = AsyncGrpcClient(url)
    try:
        yield over_grpc(client)
    finally:
        await client.close()


@click.command(help=__doc__)
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--minutes", type=click.FloatRange(0.02), default=20.0, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--questions", type=click.IntRange(4), default=300, show_default=True, help="Distinct ones.")
@click.option("--clients", "levels", type=click.IntRange(1), multiple=True, default=(16, 32, 64), show_default=True)
@click.option("--alone", "alone_url", metavar="URL", help="Ask alone of the server at grpc://HOST:PORT.")
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures there too."
)
def main(
    folder: Path,
    minutes: float,
    seed: int,
    questions: int,
    levels: tuple[int, ...],
    alone_url: str | None,
    json_file: Path | None,
) -> None:
    deployment, facts = open_deployment(folder), circumstances().model_dump()
    click.echo("\n".join(f"{key:16} {value}" for key, value in facts.items()))
    files = files_of(folder)
    drawn = draw_questions(seed, questions // 2, questions - questions // 2)
    with own_temporary_folder() as temporary:
        if alone_url:
            alone = asyncio.run(ask_alone(alone_url, drawn))
        else:
            with TritonServer(deployment.folder, deployment.checkpoint) as server:
                alone = asyncio.run(ask_alone(server.grpc_url, drawn))
        others = processes_below(os.getpid())
        pool = Pool(drawn[: questions // 2], drawn[questions // 2 :], alone)
        with program("serve", str(folder), f"--triton-nice={_NICE}", *_PORTS) as urls:
            ours = {pid: name for pid, name in processes_below(os.getpid()).items() if pid not in others}
            prefixes = shared_memory_prefixes(ours)
            used_s, begun_s = processor_s_by_name(ours), time.monotonic()
            watch = MemoryWatch(ours, max(0.1, min(2.0, minutes * 60 / 500)))
            try:
                peaks, run = asyncio.run(load(urls["grpc"], urls["gateway"], pool, levels, minutes * 60, seed))
            finally:
                watch.stop()
            took_s = time.monotonic() - begun_s
            cores = {name: (used - used_s[name]) / took_s for name, used in processor_s_by_name(ours).items()}
            left = still_busy(urls["metrics"], f"{urls['gateway']}/metrics")
        left += left_behind(prefixes, ours, temporary)
    left += sorted(files_of(folder) - files)
    growths = {name: growth(samples) for name, samples in sorted(watch.samples.items())}
    claims = judge(run, peaks, growths, left, long=minutes >= _LONG_MIN)
    _tell(claims, run, cores)
    if json_file:
        figures = {
            "claims": [asdict(claim) for claim in claims],
            "wrong": run.wrong,
            "peaks_per_s": peaks,
            "cores": cores,
        }
        figures |= {"good_per_s": goodput(run.good, run.seconds)}
        figures |= {"memory": watch.samples, "processor_s": watch.processor_s}
        json_file.write_text(json.dumps({**facts, **figures}, indent=1) + "\n", encoding="utf-8")
    if run.wrong or any(claim.held is False for claim in claims):
        sys.exit(1)


def _tell(claims: Sequence[Claim], run: Run, cores: Mapping[str, float]) -> None:
    waits = [outcome.end_s - outcome.due_s for outcome in run.good]
    if waits:
        p50, p99 = (quantile(waits, share) for share in (0.5, 0.99))
        click.echo(f"\nright answers took p50 {p50:.2f} s, p99 {p99:.2f} s; ", nl=False)
        click.echo(f"requests were sent p99 {quantile(run.lags_s, 0.99) * 1e3:.1f} ms after they were due")
    click.echo("cores used: " + ", ".join(f"{name} {used:.2f}" for name, used in sorted(cores.items())) + "\n")
    for claim in claims:
        mark = {True: "holds", False: "FAILS", None: "-"}[claim.held]
        click.echo(f"{mark:6} {claim.what}: {claim.found}")
    for line in run.wrong:
        click.echo(f"wrong  {line}", err=True)


if __name__ == "__main__":
    main()
