"""The cost of the latency harness, beside a bare loop of clients that sends the same and keeps nothing.

    python scripts/bench_load.py DIR [--clients 8] [--requests 400] [--rounds 5]

First on a trivial server, a process that answers every request at once with 64 events, so that only the harness's own
work is measured. Then on the deployment in DIR, over gRPC, as it is used. The bare loop over HTTP is sockets and lines;
over gRPC it is the generated stub. The harness records every piece, and writes every request to its file. Rounds
alternate, and the texts of both must be the same. Rates are requests a second; cores are the client's processor time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import grpc.aio
from tritonclient.grpc import service_pb2_grpc

from nvlm_trt.client.grpc_client import NO_LIMIT, read_address, read_chunk
from nvlm_trt.client.wire import write_request
from nvlm_trt.deploy.server import TritonServer
from nvlm_trt.load.circumstances import circumstances
from nvlm_trt.load.doors.registry import door_of
from nvlm_trt.load.drive import drive
from nvlm_trt.load.mix import Mix, RequestKind
from nvlm_trt.load.record import Record
from nvlm_trt.load.request import Planned
from nvlm_trt.load.schedule import ClosedLoad
from nvlm_trt.pipeline.deployment import open_deployment

_EVENTS = 64
_TIMEOUT_S = 60.0
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Round:
    texts: tuple[str, ...]
    per_s: float
    cores: float


Ask = Callable[[Any], Awaitable[str]]


async def trivial_server() -> None:
    """Prints its address; answers until it is ended."""
    data = {"text_output": " word", "num_input_tokens": 8, "num_output_tokens": 1}
    event = b"data: " + json.dumps(data).encode() + b"\n\n"
    answer = _HEAD + b"%x\r\n%s\r\n" % (len(event), event) * _EVENTS + b"0\r\n\r\n"

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
                writer.write(answer)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


async def bare_loop(ask: Ask, bodies: Sequence[Any], clients: int) -> Round:
    texts = [""] * len(bodies)
    numbers = iter(range(len(bodies)))

    async def client() -> None:
        for number in numbers:
            texts[number] = await ask(bodies[number])

    begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client() for _ in range(clients)))
    seconds, cpu_s = time.perf_counter() - begun_s, time.process_time() - begun_cpu_s
    return Round(tuple(texts), len(bodies) / seconds, cpu_s / seconds)


@contextlib.asynccontextmanager
async def over_sockets(url: str) -> AsyncIterator[Ask]:
    """Connections are kept; a new one is made when none is at rest."""
    parts = urlsplit(url)
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    head = "POST /v2/models/ensemble/generate_stream HTTP/1.1\r\nHost: server\r\nContent-Type: application/json\r\n"

    async def ask(body: bytes) -> str:
        reader, writer = idle.pop() if idle else await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        text = ""
        async for line in reader:
            if line.startswith(b"data:"):
                text += json.loads(line[5:])["text_output"]
            elif line == b"0\r\n":
                await reader.readline()
                break
        idle.append((reader, writer))
        return text

    yield ask
    for _, writer in idle:
        writer.close()
        await writer.wait_closed()


def over_stub(channel: Any) -> Ask:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    async def ask(values: dict[str, Any]) -> str:
        text = ""
        async for response in stub.ModelStreamInfer(iter([write_request("ensemble", "", values)])):
            if response.error_message:
                raise click.ClickException(response.error_message)
            if response.infer_response.outputs:
                text += read_chunk(response.infer_response).text
        return text

    return ask


async def harness(url: str, planned: Sequence[Planned], clients: int, file: Path) -> Round:
    door = door_of(url).open(url, _TIMEOUT_S)
    prepared = [(one, door.prepare(one.request, [])) for one in planned]
    try:
        with file.open("w", encoding="utf-8") as lines:

            def ended(taken: Any, start_s: float) -> None:
                lines.write(json.dumps(Record.of(taken, start_s, None).to_json()) + "\n")
                lines.flush()

            driven = await drive(door, prepared, clients, asyncio.Event(), ended)
    finally:
        await door.close()
    failed = [taken.code for taken in driven.done if taken.code]
    if failed:
        raise click.ClickException(f"{len(failed)} requests failed: {failed[0]}")
    seconds = max(taken.end_s for taken in driven.done) - driven.start_s
    texts = tuple(taken.text for taken in sorted(driven.done, key=lambda taken: taken.number))
    # Not the share of the run's wall time: the clock starts 50 ms after the run does, and the loop has no such lead.
    return Round(texts, len(planned) / seconds, driven.cpu_s / seconds)


async def on_trivial(url: str, planned: Sequence[Planned], clients: int, rounds: int, file: Path) -> list[list[Round]]:
    bodies = [json.dumps({"text_input": one.request.prompt, "max_tokens": _EVENTS}).encode() for one in planned]
    async with over_sockets(url) as ask:
        return [
            [await bare_loop(ask, bodies, clients), await harness(url, planned, clients, file)] for _ in range(rounds)
        ]


async def on_deployment(
    url: str, planned: Sequence[Planned], clients: int, rounds: int, file: Path
) -> list[list[Round]]:
    door = door_of(url).open(url, _TIMEOUT_S)
    bodies = [door.prepare(one.request, []) for one in planned]
    await door.close()
    async with grpc.aio.insecure_channel(read_address(url), NO_LIMIT) as channel:
        ask = over_stub(channel)
        await bare_loop(ask, bodies, clients)
        return [
            [await bare_loop(ask, bodies, clients), await harness(url, planned, clients, file)] for _ in range(rounds)
        ]


def report(where: str, rounds: list[list[Round]]) -> None:
    for bare, ours in rounds:
        if bare.texts != ours.texts:
            raise click.ClickException(f"{where}: an answer differs between the two: no figures")
    for name, column in (("bare loop", 0), ("harness", 1)):
        ones = [pair[column] for pair in rounds]
        cpu_ms = [1e3 * one.cores / one.per_s for one in ones]
        click.echo(f"{where:12} {name:10} {shown([one.per_s for one in ones]):>26} {shown(cpu_ms):>26}")
    click.echo(f"{where:12} {'ratio':10} {shown([ours.per_s / bare.per_s for bare, ours in rounds]):>26}")


def shown(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g}-{max(values):.3g})"


@contextlib.contextmanager
def started_trivial_server() -> Iterator[str]:
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path), required=False)
@click.option("--clients", type=click.IntRange(1), default=8, show_default=True)
@click.option("--requests", type=click.IntRange(1), default=400, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--serve", is_flag=True, hidden=True)
def main(folder: Path | None, clients: int, requests: int, rounds: int, serve: bool) -> None:
    """Measure what the latency harness costs."""
    if serve:
        asyncio.run(trivial_server())
        return
    kind = RequestKind(prompt_tokens=(32, 32), answer_tokens=(_EVENTS, _EVENTS))
    mix = Mix(name="bench", folder=Path(), distinct=64, request=(kind,))
    planned = ClosedLoad(mix, clients).plan(0, "bench", requests)
    facts = circumstances()
    click.echo(f"{facts.cpu}, {facts.cores} cores, {facts.system}, Python {facts.python}, {facts.packages}")
    click.echo(f"{clients} clients, {requests} requests of {_EVENTS} tokens, {rounds} rounds: median (least-most)")
    click.echo(f"{'server':12} {'client':10} {'requests/s':>26} {'client cpu, ms/request':>26}")
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / "requests.jsonl"
        with started_trivial_server() as url:
            report("trivial", asyncio.run(on_trivial(url, planned, clients, rounds, file)))
        if folder is not None:
            deployment = open_deployment(folder)
            with TritonServer(deployment.folder, deployment.checkpoint) as server:
                report("deployment", asyncio.run(on_deployment(server.grpc_url, planned, clients, rounds, file)))


if __name__ == "__main__":
    main()
