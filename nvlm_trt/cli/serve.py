"""``nvlm-trt serve``."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nvlm_trt.cli.gateway_options import GatewayChoice, check_gateway_packages, gateway_options, warn_of_open_door
from nvlm_trt.cli.given import given_arguments, given_files
from nvlm_trt.cli.output import Output, dry_run_option, output_options
from nvlm_trt.cli.supervise_options import SuperviseChoice, supervise_options
from nvlm_trt.cli.telemetry_options import telemetry_options
from nvlm_trt.cli.until_stopped import UntilStopped
from nvlm_trt.errors import MissingToolError, UsageError

if TYPE_CHECKING:
    from nvlm_trt.gateway.settings import GatewaySettings
    from nvlm_trt.pipeline.deployment import Deployment
    from nvlm_trt.supervise.gateway_part import GatewayPart

__all__ = ["serve"]

_PORT = click.IntRange(0, 65535)
_OUTSIDE = ("folder", "host", "checkpoint", "container", "dry_run")
_STOP_S = 20.0


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--http-port", type=_PORT, default=8000, show_default=True, help="0 takes a free port.")
@click.option("--grpc-port", type=_PORT, default=8001, show_default=True, help="0 takes a free port.")
@click.option("--metrics-port", type=_PORT, default=8002, show_default=True, help="0 takes a free port.")
@click.option("--gateway-port", type=_PORT, default=9000, show_default=True, help="0 takes a free port.")
@click.option("--no-gateway", is_flag=True, help="Serve Triton alone, without OpenAI's API.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Where the checkpoint lies now, if it was moved.")
@click.option(
    "--container", is_flag=True, help="Run in the recipe's container; with --dry-run, print the command line."
)
@supervise_options
@gateway_options
@telemetry_options
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
    container: bool,
    supervise: SuperviseChoice,
    gateway: GatewayChoice,
    dry_run: bool,
    output: Output,
) -> None:
    """Serve the deployment in DIR with Triton, and with OpenAI's HTTP API in front, until Ctrl-C or SIGTERM.

    Whatever dies is restarted. At shutdown new questions are refused and running answers get time to finish; a second
    signal ends them.
    """
    from nvlm_trt.pipeline.deployment import open_deployment

    deployment = open_deployment(folder, checkpoint)
    settings = None if no_gateway else gateway(host, gateway_port)
    ports = {"HTTP": http_port, "gRPC": grpc_port, "metrics": metrics_port, "health": supervise.health_port}
    ports |= {} if no_gateway else {"gateway": gateway_port}
    if container:
        _in_container(deployment, host, ports, supervise, dry_run, output)
        return
    if dry_run:
        name = deployment.recipe.name
        output.result({"format": 1, "deployment": str(folder), "recipe": name}, f"would serve {folder}")
        return

    from nvlm_trt.deploy.address import choose_ports
    from nvlm_trt.deploy.staged_triton import StagedTriton
    from nvlm_trt.supervise.supervisor import Supervisor

    output = supervise.logged(output)
    with UntilStopped() as until_stopped, contextlib.ExitStack() as stack:
        ports = dict(zip(ports, choose_ports(host, list(ports.items())), strict=True))
        output.note(f"starting Triton for {folder}")
        places = ports["HTTP"], ports["gRPC"], ports["metrics"]
        triton = StagedTriton(
            deployment.folder, deployment.checkpoint, host, places, supervise.server_log, nice=supervise.triton_nice
        )
        stack.callback(triton.close)
        grpc_url = triton.address.grpc_url
        door = None
        if settings is not None:
            door = _door(settings, grpc_url, ports["gateway"], gateway.arguments, supervise, output)
        with Supervisor(
            triton,
            door,
            supervise.events(output),
            health=(host, ports["health"]),
            policy=supervise.policy,
            ask_every_s=supervise.ask_every_s,
            ask_timeout_s=supervise.ask_timeout_s,
            start_timeout_s=supervise.start_timeout_s,
        ) as supervisor:
            while not supervisor.ready:
                until_stopped.wait(0.02)
            until_stopped.begin()
            urls = {"http": triton.address.http_url, "grpc": grpc_url, "metrics": triton.address.metrics_url}
            urls |= {"health": supervisor.health_url, **({"gateway": door.url} if door else {})}
            output.result({"format": 1, **urls}, "\n".join(f"{name:8} {url}" for name, url in urls.items()))
            output.note(f"ask: nvlm-trt ask {grpc_url} --image PICTURE QUESTION    stop: Ctrl-C")
            if door and settings and settings.page:
                output.note(f"or in a browser: {door.url}/")
            while not until_stopped.wait():
                supervisor.check_not_given_up()
            output.note("stopping")
            supervisor.drain(supervise.drain_s, until_stopped.hurry)


def _door(
    settings: GatewaySettings,
    triton_url: str,
    port: int,
    arguments: tuple[str, ...],
    supervise: SuperviseChoice,
    output: Output,
) -> GatewayPart | None:
    """The gateway, or None if its packages are not installed: then Triton is served alone."""
    try:
        check_gateway_packages()
    except MissingToolError as error:
        output.note(f"no OpenAI API: {error}")
        return None
    warning = warn_of_open_door(settings)
    if warning:
        output.note(warning)

    from nvlm_trt.supervise.gateway_part import GatewayPart

    arguments = (*arguments, f"--drain-s={supervise.drain_s}")
    tls = settings.tls_cert is not None
    return GatewayPart(triton_url, settings.host, port, arguments, tls=tls, ask_timeout_s=supervise.ask_timeout_s)


def _in_container(
    deployment: Deployment, host: str, ports: dict[str, int], supervise: SuperviseChoice, dry_run: bool, output: Output
) -> None:
    """Become the container's command, or print it."""
    from nvlm_trt.pipeline.container import serving_command
    from nvlm_trt.telemetry.settings import TelemetrySettings

    for option, file in (
        ("--server-log", supervise.server_log),
        ("--request-log", TelemetrySettings.from_environment().request_log),
    ):
        if file is not None:
            raise UsageError("E-USAGE-CONTAINER", f"{option} names no file of the container.", "Serve it without.")
    if 0 in ports.values():
        raise UsageError("E-USAGE-PORT", "A container's ports must be known before it starts.", "Give each a number.")
    command = serving_command(
        deployment.recipe,
        deployment.checkpoint,
        deployment.folder,
        host=host,
        ports=list(ports.values()),
        arguments=given_arguments(but=_OUTSIDE),
        files=given_files(but=_OUTSIDE),
        stop_s=supervise.drain_s + _STOP_S,
    )
    if not command:
        raise UsageError("E-USAGE-CONTAINER", "The recipe names no container.", "Serve it without --container.")
    if dry_run:
        output.result({"format": 1, "command": command}, shlex.join(command))
        return
    if shutil.which(command[0]) is None:
        raise MissingToolError("E-TOOL-DOCKER", "docker is not installed here.", "Print the command with --dry-run.")
    output.note(shlex.join(command))
    os.execvp(command[0], command)
