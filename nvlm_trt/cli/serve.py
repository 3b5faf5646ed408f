"""``nvlm-trt serve``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nvlm_trt.cli.gateway_options import gateway_options, start_gateway, warn_of_open_door
from nvlm_trt.cli.output import Output, dry_run_option, output_options
from nvlm_trt.cli.until_stopped import UntilStopped
from nvlm_trt.errors import MissingToolError, ServerError

if TYPE_CHECKING:
    from nvlm_trt.gateway.server import GatewayServer
    from nvlm_trt.gateway.settings import GatewaySettings

__all__ = ["serve"]


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--http-port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), default=8001, show_default=True, help="0 takes a free one.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=8002, show_default=True, help="0: a free one.")
@click.option("--gateway-port", type=click.IntRange(0, 65535), default=9000, show_default=True, help="0: a free one.")
@click.option("--no-gateway", is_flag=True, help="Triton's own doors alone, without OpenAI's API.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Where the checkpoint lies now, if it was moved.")
@gateway_options
@dry_run_option
@output_options
def serve(
    folder: Path,
    host: str,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    gateway_port: int,
    no_gateway: bool,
    checkpoint: Path | None,
    gateway: Callable[[str, int], GatewaySettings],
    dry_run: bool,
    output: Output,
) -> None:
    """Serve the deployment in DIR with Triton, and with OpenAI's HTTP API before it, until Ctrl-C or SIGTERM."""
    from nvlm_trt.pipeline.deployment import open_deployment

    deployment = open_deployment(folder, checkpoint)
    ports = (http_port, grpc_port, metrics_port)
    settings = None if no_gateway else gateway(host, gateway_port)
    if dry_run:
        output.result({"format": 1, "deployment": str(folder), "recipe": deployment.recipe}, f"would serve {folder}")
        return

    from nvlm_trt.deploy.server import TritonServer

    with UntilStopped() as until_stopped, contextlib.ExitStack() as stack:
        output.note(f"starting Triton for {folder}")
        server = stack.enter_context(TritonServer(deployment.folder, deployment.checkpoint, host, *ports))
        door = _start_door(settings, server.grpc_url, output)
        urls = {"http": server.http_url, "grpc": server.grpc_url, "metrics": server.metrics_url}
        if door is not None:
            stack.enter_context(door)
            urls["gateway"] = door.url
        until_stopped.begin()
        output.result({"format": 1, **urls}, "\n".join(f"{name:8} {url}" for name, url in urls.items()))
        output.note(f"ask: nvlm-trt ask {server.grpc_url} --image PICTURE QUESTION    stop: Ctrl-C")
        while not until_stopped.wait():
            if not server.running or (door is not None and not door.running):
                raise ServerError("E-SERVER-ENDED", "The server ended by itself.", "Start it again.")
        output.note("stopping")


def _start_door(settings: GatewaySettings | None, triton_url: str, output: Output) -> GatewayServer | None:
    """Without its packages the door stays shut, and Triton is served all the same: that is what was there before it."""
    if settings is None:
        return None
    try:
        door = start_gateway(settings, triton_url)
    except MissingToolError as error:
        output.note(f"no OpenAI API: {error}")
        return None
    warning = warn_of_open_door(settings)
    if warning:
        output.note(warning)
    return door
