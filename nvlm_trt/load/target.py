"""What is measured: a server at an address, or one started here over a deployment's folder."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nvlm_trt.client.failures import unreachable
from nvlm_trt.deploy.announcement import read_announcement
from nvlm_trt.deploy.server import TritonServer
from nvlm_trt.errors import NvlmError, ServerError
from nvlm_trt.load.doors.registry import door_of
from nvlm_trt.load.server_side import server_name
from nvlm_trt.pipeline.deployment import open_deployment

__all__ = ["Target", "started_gateway", "started_target", "target_at"]

_STOP_S = 15.0


@dataclass(frozen=True, slots=True)
class Target:
    """``url`` is what is measured; the server is asked for its counters at the other two, where they are known."""

    url: str
    triton_url: str | None = None
    metrics_url: str | None = None
    timeout_s: float = 60.0


def target_at(url: str, triton_url: str | None, metrics_url: str | None, timeout_s: float) -> Target:
    """A running server. Raises ``UsageError`` E-USAGE-URL; ``ServerError`` E-SERVER-UNREACHABLE if Triton is not there.

    What is before Triton is not asked for anything; that shows in the first run.
    """
    triton_url = triton_url or (url if door_of(url).is_triton else None)
    if triton_url and server_name(triton_url) is None:
        raise unreachable(triton_url)
    return Target(url, triton_url, metrics_url, timeout_s)


@contextlib.contextmanager
def started_target(folder: Path, checkpoint: Path | None, door: str, timeout_s: float) -> Iterator[Target]:
    """Triton over ``folder``, and the gateway before it for the door "openai"; stopped at the end.

    Raises as ``open_deployment`` and ``TritonServer`` do.
    """
    deployment = open_deployment(folder, checkpoint)
    with TritonServer(deployment.folder, deployment.checkpoint) as server:
        triton, metrics = server.grpc_url, server.metrics_url
        if door == "openai":
            with started_gateway(triton) as url:
                yield Target(f"{url}/v1", triton, metrics, timeout_s)
        else:
            yield Target(triton if door == "grpc" else server.http_url, triton, metrics, timeout_s)


@contextlib.contextmanager
def started_gateway(triton_url: str, *options: str) -> Iterator[str]:
    """The address of a gateway in a process of its own: in this one it would compete with the load's event loop for the
    interpreter. ``options`` are the command's. Raises ``ServerError`` E-SERVER-START.
    """
    command = [sys.executable, "-m", "nvlm_trt", "gateway", triton_url, "--port", "0", "--json", "--quiet"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        told = read_announcement(process.stdout)
        if "gateway" not in told:
            raise _not_started(told)
        yield told["gateway"]
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        process.kill()
        process.wait()
        process.stdout.close()


def _not_started(told: dict[str, dict[str, str]]) -> NvlmError:
    why = told.get("error", {}).get("what", "it ended at once")
    return ServerError("E-SERVER-START", f"The gateway did not start: {why}", "Try nvlm-trt gateway alone.")
