"""``nvlm-trt serve``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nvlm_trt.cli.gateway_options import GatewayChoice, check_gateway_packages, gateway_options, warn_of_open_door
from nvlm_trt.cli.output import Output, dry_run_option, output_options
from nvlm_trt.cli.supervise_options import SuperviseChoice, supervise_options
from nvlm_trt.cli.until_stopped import UntilStopped
from nvlm_trt.errors import MissingToolError

if TYPE_CHECKING:
    from nvlm_trt.gateway.settings import GatewaySettings
    from nvlm_trt.supervise.gateway_part import GatewayPart

__all__ = ["serve"]

_PORT = click.IntRange(0, 65535)


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--http-port", type=_PORT, default=8000, show_default=True, help="0 takes a free one.")
@click.option("--grpc-port", type=_PORT, default=8001, show_default=True, help="0 takes a free one.")
@click.option("--metrics-port", type=_PORT, default=8002, show_default=True, help="0: a free one.")
@click.option("--gateway-port", type=_PORT, default=9000, show_default=True, help="0: a free one.")
@click.option("--no-gateway", is_flag=True, help="Triton's own doors alone, without OpenAI's API.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Where the checkpoint lies now, if it was moved.")
@supervise_options
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
    supervise: SuperviseChoice,
    gateway: GatewayChoice,
    dry_run: bool,
    output: Output,
) -> None:
    """Serve the deployment in DIR with Triton, and with OpenAI's HTTP API before it, until Ctrl-C or SIGTERM.

    What dies is started again. At the end no more questions are taken, and those that are being answered get their
    time; a second signal cuts it short.
    """
    from nvlm_trt.pipeline.deployment import open_deployment

    deployment = open_deployment(folder, checkpoint)
    settings = None if no_gateway else gateway(host, gateway_port)
    if dry_run:
        output.result({"format": 1, "deployment": str(folder), "recipe": deployment.recipe}, f"would serve {folder}")
        return

    from nvlm_trt.deploy.address import choose_ports
    from nvlm_trt.deploy.staged_triton import StagedTriton
    from nvlm_trt.supervise.supervisor import Supervisor

    wanted = {"HTTP": http_port, "gRPC": grpc_port, "metrics": metrics_port, "gateway": gateway_port}
    with UntilStopped() as until_stopped:
        http_port, grpc_port, metrics_port, gateway_port, health_port = choose_ports(
            host, [*wanted.items(), ("health", supervise.health_port)]
        )
        output.note(f"starting Triton for {folder}")
        triton = StagedTriton(
            deployment.folder, deployment.checkpoint, host, (http_port, grpc_port, metrics_port), supervise.server_log
        )
        door = _door(settings, triton.address.grpc_url, gateway_port, gateway.arguments, supervise, output)
        with Supervisor(
            triton,
            door,
            supervise.events(output),
            health=(host, health_port),
            policy=supervise.policy,
            ask_every_s=supervise.ask_every_s,
            ask_timeout_s=supervise.ask_timeout_s,
            start_timeout_s=supervise.start_timeout_s,
        ) as supervisor:
            while not supervisor.ready:
                until_stopped.wait(0.02)
            until_stopped.begin()
            urls = {
                "http": triton.address.http_url,
                "grpc": triton.address.grpc_url,
                "metrics": triton.address.metrics_url,
                "health": f"http://{host}:{health_port}/health",
                **({"gateway": door.url} if door else {}),
            }
            output.result({"format": 1, **urls}, "\n".join(f"{name:8} {url}" for name, url in urls.items()))
            sys.stdout.flush()
            output.note(f"ask: nvlm-trt ask {urls['grpc']} --image PICTURE QUESTION    stop: Ctrl-C")
            while not until_stopped.wait():
                supervisor.ready  # noqa: B018  # raises what was given up
            output.note("stopping")
            supervisor.drain(supervise.drain_s, until_stopped.told_again)


def _door(
    settings: GatewaySettings | None,
    triton_url: str,
    port: int,
    arguments: tuple[str, ...],
    supervise: SuperviseChoice,
    output: Output,
) -> GatewayPart | None:
    """Without its packages the door stays shut, and Triton is served all the same: that is what was there before it."""
    if settings is None:
        return None
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
