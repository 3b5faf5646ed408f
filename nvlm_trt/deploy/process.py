"""One run of Triton: its command under a keeper, with memory and a folder of its own.

Triton's own shutdown waits for open connections, then may exit with an error, hang or crash, and leaves model processes
that spin. So its exit status means nothing at a stop: it gets SIGTERM and time, then all of it is killed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from nvlm_trt.deploy.address import Address
from nvlm_trt.deploy.command import EXIT_TIMEOUT_S
from nvlm_trt.deploy.kept_process import KeptProcess
from nvlm_trt.deploy.runtime import Runtime
from nvlm_trt.deploy.traces import Traces

__all__ = ["TritonProcess"]

_LOOK_S = 0.02


class TritonProcess(KeptProcess):
    """Started by its constructor over ``traces.folder / "repository"``."""

    def __init__(
        self, runtime: Runtime, *, traces: Traces, address: Address, log_file: Path, world_size: int = 1
    ) -> None:
        super().__init__(
            runtime.command(traces.folder, address, traces.prefix, world_size),
            left=traces.all,
            keep_open=[traces.lock_fd],
            log_file=log_file,
            folder=traces.folder,
            environment=runtime.environment(dict(os.environ)),
        )

    def stop(self, models_ended: Callable[[], bool] = lambda: False) -> None:
        """End it, by force after a time, or as soon as its models have ended: Triton itself checks for that only once a
        second. May be called again.
        """
        if self.exit_status is None:
            self.terminate()
            deadline = time.monotonic() + EXIT_TIMEOUT_S + 4
            while time.monotonic() < deadline and not models_ended() and self.wait(_LOOK_S) is None:
                pass
        self.kill()
