"""``nvlm-trt serve``."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import click

from nvlm_trt.cli.output import Output, dry_run_option, output_options
from nvlm_trt.errors import ServerError

__all__ = ["serve"]

_WATCH_S = 0.5


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--http-port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), default=8001, show_default=True, help="0 takes a free one.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=8002, show_default=True, help="0: a free one.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Where the checkpoint lies now, if it was moved.")
@dry_run_option
@output_options
def serve(
    folder: Path,
    host: str,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    checkpoint: Path | None,
    dry_run: bool,
    output: Output,
) -> None:
    """Serve the deployment in DIR with Triton until Ctrl-C or SIGTERM, then stop everything."""
    from nvlm_trt.pipeline.deployment import open_deployment

    deployment = open_deployment(folder, checkpoint)
    ports = (http_port, grpc_port, metrics_port)
    if dry_run:
        output.result({"format": 1, "deployment": str(folder), "recipe": deployment.recipe}, f"would serve {folder}")
        return

    from nvlm_trt.deploy.server import TritonServer

    started, stop = threading.Event(), threading.Event()

    def end(*_: object) -> None:
        # A start can be left at any point. A stop cannot: a second Ctrl-C must not leave half of it undone.
        if not started.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        output.note(f"starting Triton for {folder}")
        with TritonServer(deployment.folder, deployment.checkpoint, host, *ports) as server:
            started.set()
            urls = {"http": server.http_url, "grpc": server.grpc_url, "metrics": server.metrics_url}
            output.result({"format": 1, **urls}, "\n".join(f"{name:8} {url}" for name, url in urls.items()))
            output.note(f"ask: nvlm-trt ask {server.grpc_url} --image PICTURE QUESTION    stop: Ctrl-C")
            while not stop.wait(_WATCH_S):
                if not server.running:
                    raise ServerError("E-SERVER-ENDED", "The server ended by itself.", "Start it again.")
            output.note("stopping")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
