"""The cost of the gateway: the same questions through it and straight to the ensemble over gRPC.

    python scripts/bench_gateway.py DIR [--clients 1 --clients 8] [--repeats 5] [--json FILE]

Per request: one token, one client, one request after another; the difference of the medians is the gateway's share. Per
token: the time between tokens of one long stream. Beside both it prints the gateway's own processor time; the gateway
is a process of its own, as in production. Under load: requests of 16 tokens in closed loops of C clients, both ways, on
one server. Clients, gateway, server and model share this machine's cores, so under load the ratio to gRPC is the
figure, not the rate. Clients are of one kind: asyncio, sockets kept open, the least work that reads every token. Every
answer is compared with the same question's answer alone; one that differs ends the run with exit 1.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import click

from nvlm_trt.client.async_grpc_client import AsyncGrpcClient
from nvlm_trt.deploy.server import TritonServer
from nvlm_trt.load.target import started_gateway
from nvlm_trt.pipeline.deployment import open_deployment
from nvlm_trt.resources import resource_folder
from scripts.chat_client import ChatClient
from scripts.facts import facts, show_facts
from scripts.processes import processes_below, processor_s

_LOAD_TOKENS = 16
_STREAM_TOKENS = 400
_ONE_TOKEN_REQUESTS = 100
_REQUESTS_PER_CLIENT = 4
_LEAST_REQUESTS = 96
QUESTIONS = (("Name three colours.", False), ("What is in this picture?", True), ("Write a short greeting.", False))

Ask = Callable[[str, bool, int], Awaitable["Told"]]


class Told:
    """An answer and when its pieces came."""

    def __init__(self) -> None:
        self.text = ""
        self.tokens = 0
        self.at_s: list[float] = []

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
            told.tokens += chunk.output_tokens
        return told

    return ask


def through_gateway(client: ChatClient) -> Ask:
    async def ask(question: str, picture: bool, tokens: int) -> Told:
        content: list[object] = [{"type": "text", "text": question}]
        if picture:
            content.append({"type": "image_url", "image_url": {"url": picture_uri()}})
        body = {"model": "nvlm-d", "messages": [{"role": "user", "content": content}], "max_tokens": tokens}
        told = Told()

        def tell(event: Mapping[str, Any]) -> None:
            if "error" in event:
                raise click.ClickException(f"the gateway said {event['error']['message']}")
            for choice in event["choices"]:
                if choice["delta"].get("content"):
                    told.add(choice["delta"]["content"])
            if event.get("usage"):
                told.tokens = event["usage"]["completion_tokens"]

        stream = {"stream": True, "stream_options": {"include_usage": True}}
        await client.ask(json.dumps({**body, **stream}).encode(), tell)
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


async def per_token(ask: Ask) -> tuple[float, int]:
    """Milliseconds between two tokens, the mean of one stream, and how many there were."""
    told = await ask("Tell a story.", False, _STREAM_TOKENS)
    return (told.at_s[-1] - told.at_s[0]) * 1e3 / max(1, told.tokens - 1), told.tokens


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


async def measure(
    grpc_url: str, gateway_url: str, gateway_cpu_s: Callable[[], float], clients: tuple[int, ...], repeats: int
) -> dict[str, object]:
    client, chat = AsyncGrpcClient(grpc_url), ChatClient(gateway_url)
    ways = {"gRPC": over_grpc(client), "gateway": through_gateway(chat)}
    answers = {
        name: [(await ask(*question, _LOAD_TOKENS)).text for question in QUESTIONS] for name, ask in ways.items()
    }
    if answers["gRPC"] != answers["gateway"]:
        raise click.ClickException("the gateway answers otherwise than the ensemble")
    for ask in ways.values():
        await per_request(ask, _ONE_TOKEN_REQUESTS // 2)
    single: dict[str, list[float]] = {name: [] for name in [*ways, "gateway's processor time"]}
    token: dict[str, list[float]] = {name: [] for name in [*ways, "gateway's processor time"]}
    for _ in range(repeats):  # by turns, so that a busy moment is shared
        for name, ask in ways.items():
            begun_s = gateway_cpu_s()
            single[name].append(statistics.median(await per_request(ask, _ONE_TOKEN_REQUESTS)))
            between_s = gateway_cpu_s()
            gap_ms, tokens = await per_token(ask)
            token[name].append(gap_ms)
            if name == "gateway":
                single["gateway's processor time"].append((between_s - begun_s) * 1e3 / _ONE_TOKEN_REQUESTS)
                token["gateway's processor time"].append((gateway_cpu_s() - between_s) * 1e3 / tokens)
    lines: dict[str, object] = {
        "one token, ms": {name: spread(times, 2) for name, times in single.items()},
        "between tokens of a stream, ms": {name: spread(times, 3) for name, times in token.items()},
    }
    for count in clients:
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, ask in ways.items():
                rates[name].append(await under_load(ask, count, answers["gRPC"]))
        ratio = statistics.median(rates["gateway"]) / statistics.median(rates["gRPC"])
        told = {name: spread(values, 1) for name, values in rates.items()}
        lines[f"requests/s, {count} clients"] = {**told, "ratio": f"{ratio:.2f}"}
    chat.close()
    await client.close()
    return lines


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--clients", type=click.IntRange(1), multiple=True, default=(1, 8, 32, 128), show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures there too.")
def main(folder: Path, clients: tuple[int, ...], repeats: int, json_file: Path | None) -> None:
    """Measure the gateway before the deployment in DIR against gRPC."""
    show_facts(facts())
    deployment = open_deployment(folder)
    with (
        TritonServer(deployment.folder, deployment.checkpoint) as server,
        started_gateway(server.grpc_url, "--limit", "answers=256", "--limit", "waiting=1024") as gateway_url,
    ):
        pid = next(pid for pid, name in processes_below(os.getpid()).items() if name == "gateway")
        lines = asyncio.run(measure(server.grpc_url, gateway_url, lambda: processor_s(pid), clients, repeats))
    for what, figures in lines.items():
        click.echo(f"{what:34} {figures}")
    click.echo(f"median of {repeats} repeats (least-most); every answer was the one given alone")
    if json_file:
        json_file.write_text(json.dumps(lines, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
