"""Tiles a second of the ``vision_encoder`` model in Triton: one client and many, calls shared between requests or not.

    python scripts/bench_vision_serving.py DIR [--clients 1 --clients 4 --clients 16] [--tiles 7] [--json]

Three servers run over copies of the model repository of the deployment DIR, and are measured in turn: calls shared and
not shared, both without the cache of embeddings, and the cache alone, with tiles it has seen. Closed loop: each client
sends its next request when it has the answer. No two clients send the same tile, so neither the cache nor requests in
progress can answer instead of the engine. Every answer is compared with the same request's answer alone, from the
server that shares nothing; one that differs ends the run with exit 1.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput

from nvlm_trt.deploy.model_config import read_model_config, set_parameter, write_model_config
from nvlm_trt.deploy.server import TritonServer
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.model.json_file import read_json_object
from nvlm_trt.pipeline.deployment import Deployment, open_deployment
from scripts.facts import facts, show_facts

MODEL = "vision_encoder"
# Rows of float32 are the same bits in any company. Narrow kernels differ with the size of a batch in their roundings.
_TOLERANCE = {"float32": 0.0, "bfloat16": 3e-2, "float16": 5e-3}
_METRICS_S = 0.2

Tiles = NDArray[np.uint8]
Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Variant:
    name: str
    share_calls: bool
    cache_bytes: int


VARIANTS = (
    Variant("own calls", share_calls=False, cache_bytes=0),
    Variant("shared calls", share_calls=True, cache_bytes=0),
    Variant("cache", share_calls=True, cache_bytes=2**30),
)


@dataclass(frozen=True, slots=True)
class Point:
    """One variant under one load; tiles a second are least, median and most of the repeats."""

    variant: str
    clients: int
    requests: int
    tiles_per_s: tuple[float, float, float]
    tiles_per_call: float
    request_ms_p50: float
    worst_error: float


class WrongRows(Exception):
    """An answer differed from the same request's answer alone."""


@contextmanager
def serving(deployment: Deployment, variant: Variant) -> Iterator[TritonServer]:
    """The deployment, linked into a folder of its own, with another configuration of the vision model."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "deployment"
        folder.mkdir()
        for entry in deployment.folder.iterdir():
            if entry.name != "triton_repo":
                (folder / entry.name).symlink_to(entry)
        for file in (deployment.folder / "triton_repo").rglob("*"):
            if file.is_file():
                copy = folder / file.relative_to(deployment.folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())
        place = folder / "triton_repo" / MODEL / "config.pbtxt"
        config = read_model_config(place)
        set_parameter(config, "share_calls", variant.share_calls)
        set_parameter(config, "cache_bytes", variant.cache_bytes)
        write_model_config(config, place)
        with TritonServer(folder, deployment.checkpoint) as server:
            yield server


def encode(client: InferenceServerClient, tiles: Tiles) -> Rows:
    sent = InferInput("tiles", list(tiles.shape), "UINT8")
    sent.set_data_from_numpy(tiles)
    rows: Rows = client.infer(MODEL, [sent]).as_numpy("prompt_embedding_table")
    return rows


@dataclass(frozen=True, slots=True)
class Round:
    """All requests once. ``encoded`` and ``calls`` are what the engine did for them."""

    tiles_per_s: float
    request_ms: list[float]
    worst_error: float
    encoded: int
    calls: int


def measure(server: TritonServer, requests: Sequence[Tiles], wanted: Sequence[Rows], clients: int) -> Round:
    """``clients`` share ``requests``, each taking every so many."""
    before = _counted(server)
    seconds, times, error = _closed_loop(server, requests, wanted, clients)
    encoded, calls = (now - then for now, then in zip(_counted(server), before, strict=True))
    return Round(sum(map(len, requests)) / seconds, times, error, encoded, calls)


def summarise(variant: Variant, clients: int, rounds: Sequence[Round]) -> Point:
    rates = [one.tiles_per_s for one in rounds]
    calls = sum(one.calls for one in rounds)
    return Point(
        variant=variant.name,
        clients=clients,
        requests=sum(len(one.request_ms) for one in rounds),
        tiles_per_s=(min(rates), statistics.median(rates), max(rates)),
        tiles_per_call=sum(one.encoded for one in rounds) / calls if calls else 0.0,
        request_ms_p50=statistics.median(time for one in rounds for time in one.request_ms),
        worst_error=max(one.worst_error for one in rounds),
    )


def _closed_loop(
    server: TritonServer, requests: Sequence[Tiles], wanted: Sequence[Rows], clients: int
) -> tuple[float, list[float], float]:
    times: list[float] = []
    errors: list[float] = [0.0]
    failures: list[BaseException] = []
    barrier = threading.Barrier(clients + 1)

    def one_client(number: int) -> None:
        try:
            with InferenceServerClient(_address(server)) as client:
                barrier.wait()
                for index in range(number, len(requests), clients):
                    began = time.perf_counter()
                    rows = encode(client, requests[index])
                    times.append(1e3 * (time.perf_counter() - began))
                    errors.append(_error(rows, wanted[index]))
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=one_client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    barrier.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if failures:
        raise failures[0]
    return seconds, times, max(errors)


def _error(rows: Rows, wanted: Rows) -> float:
    if rows.shape != wanted.shape:
        raise WrongRows(f"rows of shape {rows.shape} instead of {wanted.shape}")
    return float(np.linalg.norm(rows - wanted) / np.linalg.norm(wanted))


def _counted(server: TritonServer) -> tuple[int, int]:
    """Tiles encoded and calls made so far, once the page rests."""
    last = (-1, -1)
    while True:
        with urllib.request.urlopen(server.metrics_url, timeout=5) as response:
            page = response.read().decode()
        misses = re.search(r'nvlm_vision_cache_tiles_total\{[^}]*outcome="miss"[^}]*\} (\d+)', page)
        calls = re.search(r"^nvlm_vision_calls_total\S* (\d+)", page, re.MULTILINE)
        now = (int(misses[1]) if misses else 0, int(calls[1]) if calls else 0)
        if now == last:
            return now
        last = now
        time.sleep(_METRICS_S)


def _address(server: TritonServer) -> str:
    return server.grpc_url.removeprefix("grpc://")


def _noise(tile_size: int, tiles: int, count: int) -> list[Tiles]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (tiles, tile_size, tile_size, 3), dtype=np.uint8) for _ in range(count)]


def run(deployment: Deployment, levels: Sequence[int], tiles: int, per_client: int, repeats: int) -> list[Point]:
    """Raises ``WrongRows``."""
    config = NvlmConfig.from_json(read_json_object(deployment.folder / "model" / "config.json", "CONFIG"))
    repository = read_model_config(deployment.folder / "triton_repo" / MODEL / "config.pbtxt")
    tolerance = _TOLERANCE[repository.parameters["table_dtype"].string_value]
    requests = _noise(config.tiling.tile_size, tiles, max(levels) * per_client)
    with ExitStack() as stack:
        servers = {variant: stack.enter_context(serving(deployment, variant)) for variant in VARIANTS}
        wanted: list[Rows] = []
        for server in servers.values():
            with InferenceServerClient(_address(server)) as client:
                alone = [encode(client, request) for request in requests]  # warms up, and fills the cache
            wanted = wanted or alone
        points = []
        for clients in levels:
            share = slice(0, clients * per_client)
            rounds: dict[Variant, list[Round]] = {variant: [] for variant in servers}
            for _ in range(repeats):  # in turn, so that a slow minute of the machine meets all of them
                for variant, server in servers.items():
                    rounds[variant].append(measure(server, requests[share], wanted[share], clients))
            points += [summarise(variant, clients, found) for variant, found in rounds.items()]
    for point in points:
        if point.worst_error > tolerance:
            raise WrongRows(f"{point.variant}, {point.clients} clients: rows are off by {point.worst_error:.1e}")
    return points


@click.command(help=__doc__)
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--clients", "levels", type=click.IntRange(1, 256), multiple=True, default=(1, 4, 16), show_default=True)
@click.option("--tiles", type=click.IntRange(1, 56), default=1, show_default=True, help="Of each request.")
@click.option("--per-client", type=click.IntRange(1), default=16, show_default=True, help="Requests of each client.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def main(folder: Path, levels: tuple[int, ...], tiles: int, per_client: int, repeats: int, as_json: bool) -> None:
    found = facts()
    try:
        points = run(open_deployment(folder), levels, tiles, per_client, repeats)
    except WrongRows as wrong:
        sys.exit(f"wrong rows: {wrong}")
    if as_json:
        click.echo(
            json.dumps({**found, "tiles_per_request": tiles, "points": [asdict(one) for one in points]}, indent=2)
        )
        return
    show_facts(found)
    click.echo(f"\n{tiles} tiles a request; {repeats} repeats, least and most in brackets")
    click.echo(f"{'':>13} {'clients':>7} {'tiles/s':>22} {'tiles a call':>13} {'request p50':>12} {'error':>8}")
    for one in points:
        low, middle, high = one.tiles_per_s
        rate = f"{middle:.0f} ({low:.0f}-{high:.0f})"
        click.echo(
            f"{one.variant:>13} {one.clients:7} {rate:>22} {one.tiles_per_call:13.1f} "
            f"{one.request_ms_p50:9.1f} ms {one.worst_error:8.1e}"
        )


if __name__ == "__main__":
    main()
