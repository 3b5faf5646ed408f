"""A Triton server over a deployment, from its start until nothing of it is left, for programs without a supervisor.

On a busy machine a start sometimes hangs or dies of a signal; it is then ended and tried once more.
"""

from __future__ import annotations

from pathlib import Path

from nvlm_trt.deploy.address import Address
from nvlm_trt.deploy.staged_triton import BadStart, StagedTriton

__all__ = ["TritonServer"]

_ATTEMPTS = 2


class TritonServer:
    """Starts in its constructor and serves until ``stop``; a context manager. A port of 0 takes a free one.

    The server's log goes to ``log_file``. Without one the log is removed with the server, unless the start fails: then
    it is kept as ``server.log`` in the deployment's folder.
    """

    def __init__(
        self,
        deployment_dir: Path,
        checkpoint_dir: Path,
        host: str = "127.0.0.1",
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        *,
        log_file: Path | None = None,
        start_timeout_s: float = 120.0,
    ) -> None:
        """Raises what ``StagedTriton`` and its ``start`` raise."""
        ports = (http_port, grpc_port, metrics_port)
        self._triton = StagedTriton(deployment_dir, checkpoint_dir, host, ports, log_file)
        try:
            for attempt in range(_ATTEMPTS):
                try:
                    self._triton.start(start_timeout_s)
                    return
                except BadStart:
                    if attempt + 1 == _ATTEMPTS:
                        raise
                    self._triton.choose_again()
        except BaseException:
            self._triton.keep_log()
            self.stop()
            raise

    @property
    def address(self) -> Address:
        return self._triton.address

    @property
    def log_file(self) -> Path:
        return self._triton.log_file

    @property
    def pid(self) -> int:
        """Of the server's own process."""
        return self._triton.pid

    @property
    def http_url(self) -> str:
        return self.address.http_url

    @property
    def grpc_url(self) -> str:
        return self.address.grpc_url

    @property
    def metrics_url(self) -> str:
        return self.address.metrics_url

    @property
    def running(self) -> bool:
        """Whether the server's own process lives; its models may not."""
        return self._triton.running

    def stop(self) -> None:
        """End the server, whatever state it is in, and remove everything it left. May be called again."""
        self._triton.stop()
        self._triton.close()

    def __enter__(self) -> TritonServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
