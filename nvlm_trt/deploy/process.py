"""One run of the Triton binary: a process group that can be ended without leaving anything behind.

Triton's own shutdown waits for open connections and then may exit with an error, hang or crash, and leaves model
processes that spin. So its exit status means nothing here: it gets SIGTERM and time, then the whole group is killed,
then its shared-memory files, which carry a prefix of their own, are removed.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from nvlm_trt.deploy.runtime import TritonRuntime
from nvlm_trt.errors import ServerError

__all__ = ["Address", "TritonProcess"]

_SHARED_MEMORY = Path("/dev/shm")
_TIED_EXEC = Path(__file__).parents[1] / "tied_exec.py"
_EXIT_TIMEOUT_S = 4


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    http_port: int
    grpc_port: int
    metrics_port: int

    @classmethod
    def choose(cls, host: str, http_port: int = 0, grpc_port: int = 0, metrics_port: int = 0) -> Address:
        """Take the ports given and, for each that is 0, one that nobody listens on now.

        Raises ``ServerError`` E-SERVER-PORT for one that is taken or a host that is not this machine's.
        """
        with ExitStack() as stack:
            probes = [
                stack.enter_context(_probe(host, name, port))
                for name, port in (("HTTP", http_port), ("gRPC", grpc_port), ("metrics", metrics_port))
            ]
            return cls(host, *(probe.getsockname()[1] for probe in probes))

    @property
    def http_url(self) -> str:
        return f"http://{self.host}:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        return f"grpc://{self.host}:{self.grpc_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://{self.host}:{self.metrics_port}/metrics"


class TritonProcess:
    """Started by its constructor. ``work_folder`` must have no blank in its path and holds ``repository``."""

    def __init__(
        self, runtime: TritonRuntime, *, repository: Path, work_folder: Path, address: Address, log_file: Path
    ) -> None:
        self._prefix = f"nvlm_{secrets.token_hex(6)}_"
        backends = work_folder / "backends"
        if not backends.exists():
            runtime.write_backend_folder(backends)
        command = [
            str(runtime.server),
            f"--model-repository={repository}",
            f"--backend-directory={backends}",
            f"--http-address={address.host}",
            f"--http-port={address.http_port}",
            f"--grpc-address={address.host}",
            f"--grpc-port={address.grpc_port}",
            f"--metrics-address={address.host}",
            f"--metrics-port={address.metrics_port}",
            "--disable-auto-complete-config",
            "--allow-gpu-metrics=false",
            f"--exit-timeout-secs={_EXIT_TIMEOUT_S}",
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
        ]
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_TIED_EXEC), str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=work_folder,
                env=runtime.environment(dict(os.environ)),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs; negative when a signal ended it."""
        return self._process.poll()

    def stop(self, grace_s: float = _EXIT_TIMEOUT_S + 4) -> None:
        """End the group and remove its shared memory. May be called again."""
        if self.exit_status is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        self.kill()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        deadline = time.monotonic() + 2
        while _group_lives(self._process.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        for file in _SHARED_MEMORY.glob(f"{self._prefix}*"):
            file.unlink(missing_ok=True)


def _probe(host: str, name: str, port: int) -> socket.socket:
    probe = socket.socket()
    # As the server does: a port whose last connections are still winding down is free.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((host, port))
        return probe
    except OSError:
        probe.close()
        raise ServerError(
            "E-SERVER-PORT",
            f"The {name} port {port} of {host} cannot be listened on; something else may do so.",
            "Choose another, or 0 for a free one.",
        ) from None


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
