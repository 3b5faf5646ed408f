"""``nvlm-trt gateway``."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from nvlm_trt.cli.gateway_options import GatewayChoice, gateway_options, start_gateway, warn_of_open_door
from nvlm_trt.cli.output import Output, dry_run_option, output_options
from nvlm_trt.cli.target import deployment_at
from nvlm_trt.cli.telemetry_options import telemetry_options
from nvlm_trt.cli.until_stopped import UntilStopped
from nvlm_trt.errors import ServerError

__all__ = ["gateway"]


@click.command()
@click.argument("target", metavar="URL-or-DIR")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=9000, show_default=True, help="0 takes a free port.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="For a DIR: where its checkpoint lies now.")
@click.option(
    "--drain-s",
    type=click.FloatRange(0),
    default=5,
    show_default=True,
    help="Seconds that running answers get at shutdown.",
)
@gateway_options
@telemetry_options
@dry_run_option
@output_options
def gateway(
    target: str,
    host: str,
    port: int,
    checkpoint: Path | None,
    drain_s: float,
    gateway: GatewayChoice,
    dry_run: bool,
    output: Output,
) -> None:
    """Serve OpenAI's HTTP API for a Triton server, until Ctrl-C or SIGTERM.

    The server is a running one at grpc://HOST:PORT, or is started for the deployment in DIR and can be reached by
    nobody else.
    """
    settings = gateway(host, port)
    if dry_run:
        output.result({"format": 1, "target": target, "model": settings.model_name}, f"would stand before {target}")
        return
    with UntilStopped() as until_stopped, contextlib.ExitStack() as stack:
        server, deployment = None, deployment_at(target, checkpoint)
        if deployment is not None:
            from nvlm_trt.deploy.server import TritonServer

            output.note(f"starting Triton for {target}")
            server = stack.enter_context(TritonServer(deployment.folder, deployment.checkpoint))
        door = stack.enter_context(start_gateway(settings, target if server is None else server.grpc_url, drain_s))
        until_stopped.begin()
        output.result({"format": 1, "gateway": door.url}, f"gateway  {door.url}")
        output.note(warn_of_open_door(settings) or f"OpenAI's clients want {door.url}/v1 as their base URL")
        while not until_stopped.wait():
            if (server is not None and not server.running) or not door.running:
                raise ServerError("E-SERVER-ENDED", "The server ended by itself.", "Start it again.")
        output.note("stopping")
