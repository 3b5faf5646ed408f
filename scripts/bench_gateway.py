"""What the gateway costs: the same questions through it and straight to the ensemble over gRPC.

    python scripts/bench_gateway.py DIR [--clients 1 --clients 8] [--repeats 5] [--json FILE]

Per request: one token, one client, one request after another; the medians' difference is the gateway's share. Per
token: the time between tokens of one long stream. Under load: requests of 16 tokens in closed loops of C clients, both
ways, on one server. Clients, gateway, server and model share this machine's cores, so under load the ratio to gRPC is
the figure, not the rate. Clients are of one kind: asyncio, sockets kept open, the least work that reads every token.
Every answer is held against the same question's answer alone; one that differs ends the run with exit 1.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import click

from nvlm_trt.client.async_grpc_client import AsyncGrpcClient
from nvlm_trt.deploy.server import TritonServer
from nvlm_trt.gateway.server import GatewayServer
from nvlm_trt.gateway.settings import GatewaySettings, Limits
from nvlm_trt.pipeline.deployment import open_deployment
from nvlm_trt.resources import resource_folder

_LOAD_TOKENS = 16
_REQUESTS_PER_CLIENT = 4
_LEAST_REQUESTS = 96
QUESTIONS = (("Name three colours.", False), ("What is in this picture?", True), ("Write a short greeting.", False))

Ask = Callable[[str, bool, int], Awaitable["Told"]]


class Told:
    """An answer and when its tokens came."""

    def __init__(self) -> None:
        self.text = ""
        self.at_s: list[float] = [time.perf_counter()]

    def add(self, text: str) -> None:
        self.text += text
        self.at_s.append(time.perf_counter())


def picture_uri() -> str:
    data = (resource_folder("calibration") / "pictures" / "rocket.jpg").read_bytes()
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def over_grpc(client: AsyncGrpcClient) -> Ask:
    async def ask(question: str, picture: bool, tokens: int) -> Told:
        told = Told()
        values = {"text_input": question, "max_tokens": tokens, "stream": True}
        if picture:
            values["image_url_input"] = [picture_uri()]
        async for chunk in client.ask(values, uuid4().hex):
            told.add(chunk.text)
        return told

    return ask


def through_gateway(url: str) -> Ask:
    """One keep-alive connection for each call, taken from those at rest."""
    parts = urlsplit(url)
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(question: str, picture: bool, tokens: int) -> Told:
        content: list[object] = [{"type": "text", "text": question}]
        if picture:
            content.append({"type": "image_url", "image_url": {"url": picture_uri()}})
        messages = [{"role": "user", "content": content}]
        body = json.dumps({"model": "nvlm-d", "messages": messages, "max_tokens": tokens, "stream": True}).encode()
        told = Told()
        reader, writer = idle.pop() if idle else await asyncio.open_connection(parts.hostname, parts.port)
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: door\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        status = await reader.readline()
        if b" 200 " not in status:
            raise click.ClickException(f"the gateway said {status.decode().strip()}")
        async for line in reader:
            if line.startswith(b'data: {"id"'):
                delta = json.loads(line[6:])["choices"][0]["delta"]
                if delta.get("content"):
                    told.add(delta["content"])
            elif line == b"0\r\n":
                await reader.readline()
                break
        idle.append((reader, writer))
        return told

    return ask


async def per_request(ask: Ask, requests: int) -> list[float]:
    """Milliseconds of each."""
    times = []
    for _ in range(requests):
        begun = time.perf_counter()
        await ask("Hello", False, 1)
        times.append((time.perf_counter() - begun) * 1e3)
    return times


async def per_token(ask: Ask, tokens: int) -> float:
    """Milliseconds between two tokens, the mean of one stream."""
    told = await ask("Tell a story.", False, tokens)
    return (told.at_s[-1] - told.at_s[1]) * 1e3 / max(1, len(told.at_s) - 2)


async def under_load(ask: Ask, clients: int, alone: list[str]) -> float:
    """Requests a second. Raises if an answer differs from what the same question got alone."""

    async def client(number: int, requests: int) -> None:
        for turn in range(requests):
            which = (number + turn) % len(QUESTIONS)
            told = await ask(*QUESTIONS[which], _LOAD_TOKENS)
            if told.text != alone[which]:
                raise click.ClickException(f"{QUESTIONS[which][0]!r} was answered otherwise than alone")

    requests = max(_REQUESTS_PER_CLIENT, _LEAST_REQUESTS // clients)
    begun = time.perf_counter()
    await asyncio.gather(*(client(number, requests) for number in range(clients)))
    return clients * requests / (time.perf_counter() - begun)


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


async def measure(grpc_url: str, gateway_url: str, clients: tuple[int, ...], repeats: int) -> dict[str, object]:
    client = AsyncGrpcClient(grpc_url)
    ways = {"gRPC": over_grpc(client), "gateway": through_gateway(gateway_url)}
    answers = {
        name: [(await ask(*question, _LOAD_TOKENS)).text for question in QUESTIONS] for name, ask in ways.items()
    }
    if answers["gRPC"] != answers["gateway"]:
        raise click.ClickException("the gateway answers otherwise than the ensemble")
    for ask in ways.values():
        await per_request(ask, 50)
    lines: dict[str, object] = {}
    single: dict[str, list[float]] = {name: [] for name in ways}
    token: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):  # by turns, so that a busy moment is shared
        for name, ask in ways.items():
            single[name].append(statistics.median(await per_request(ask, 100)))
            token[name].append(await per_token(ask, 400))
    lines["one token, ms"] = {name: spread(times, 2) for name, times in single.items()}
    lines["between tokens of a stream, ms"] = {name: spread(times, 3) for name, times in token.items()}
    for count in clients:
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, ask in ways.items():
                rates[name].append(await under_load(ask, count, answers["gRPC"]))
        ratio = statistics.median(rates["gateway"]) / statistics.median(rates["gRPC"])
        told = {name: spread(values, 1) for name, values in rates.items()}
        lines[f"requests/s, {count} clients"] = {**told, "ratio": f"{ratio:.2f}"}
    await client.close()
    return lines


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--clients", type=click.IntRange(1), multiple=True, default=(1, 8, 32, 128), show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures there too.")
def main(folder: Path, clients: tuple[int, ...], repeats: int, json_file: Path | None) -> None:
    """Measure the gateway before the deployment in DIR against gRPC."""
    names = ("starlette", "uvicorn", "h11", "grpcio", "nvlm-trt")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    click.echo(f"{platform.platform()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}, {packages}")
    deployment = open_deployment(folder)
    limits = Limits(answers=256, waiting=1024)
    with (
        TritonServer(deployment.folder, deployment.checkpoint) as server,
        GatewayServer(GatewaySettings(port=0, limits=limits), server.grpc_url) as gateway,
    ):
        lines = asyncio.run(measure(server.grpc_url, gateway.url, clients, repeats))
    for what, figures in lines.items():
        click.echo(f"{what:34} {figures}")
    click.echo(f"median of {repeats} repeats (least-most); every answer was the one given alone")
    if json_file:
        json_file.write_text(json.dumps(lines, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
