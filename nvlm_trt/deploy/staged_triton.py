"""A deployment staged for Triton: it can be started, asked, and ended any number of times, always at one address.

Triton answers "ready" when models are loaded, and goes on saying so after one has died. So a start has succeeded when
the whole ensemble has answered a one-token question, and the same question tells whether it lives.
"""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

from nvlm_trt.client import AskOptions, HttpClient
from nvlm_trt.client.direct import read_page
from nvlm_trt.deploy.address import Address
from nvlm_trt.deploy.deployment_needs import check_deployment
from nvlm_trt.deploy.figures import TritonFigures, read_figures
from nvlm_trt.deploy.give_way import give_way, give_way_as_session
from nvlm_trt.deploy.model_processes import ModelProcesses
from nvlm_trt.deploy.process import TritonProcess
from nvlm_trt.deploy.staging import stage_repository
from nvlm_trt.deploy.traces import Traces, sweep
from nvlm_trt.errors import NvlmError, ServerError, UsageError, from_message
from nvlm_trt.serving.shutdown import DRAINING, ENDING

__all__ = ["BadStart", "StagedTriton", "StartAborted"]

_POLL_S = 0.05
_PROBE = AskOptions(max_tokens=1, stream=False)
_SEE_LOG = "The server's log says more; it is kept beside the deployment unless it was sent elsewhere."


class BadStart(ServerError):
    """A failed start that may succeed the next time: Triton sometimes hangs or dies of a signal."""


class StartAborted(Exception):
    """The start is no longer wanted."""


class StagedTriton:
    """Not started yet. ``close`` it. A port of 0 takes a free one.

    The server's log is appended to ``log_file``; by default to a file that is removed with the server. With ``nice``, 1
    to 19, it gives way to everything else that runs on these cores. Raises ``UsageError`` E-USAGE-LOG,
    ``MissingToolError`` E-TOOL-*, ``ArtefactError`` E-ARTEFACT-TRITON, ``ServerError`` E-SERVER-PORT, E-SERVER-PATH.
    """

    def __init__(
        self,
        deployment_dir: Path,
        checkpoint_dir: Path,
        host: str = "127.0.0.1",
        ports: tuple[int, int, int] = (0, 0, 0),
        log_file: Path | None = None,
        *,
        nice: int = 0,
    ) -> None:
        if log_file is not None:
            _check_writable(log_file)
        sweep()
        self._nice = nice
        self._deployment_dir = deployment_dir
        self._runtime, self._world_size = check_deployment(deployment_dir)
        self._wanted = (host, *ports)
        self.address = Address.choose(*self._wanted)
        self._traces = Traces()
        self._keeps_log = log_file is None
        self.log_file = log_file or self._traces.folder / "server.log"
        self._process: TritonProcess | None = None
        self._models: ModelProcesses | None = None
        try:
            stage_repository(deployment_dir, checkpoint_dir, self._traces.folder / "repository", self._marks)
        except BaseException:
            self.close()
            raise

    @property
    def exit_status(self) -> int | None:
        """The status of the server's own process, whose models may be dead while it lives. None before the first start
        too."""
        return self._process.exit_status if self._process else None

    @property
    def dead_model(self) -> str | None:
        """The name of a model whose process has ended while the server goes on."""
        return self._models.dead() if self._models else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.exit_status is None

    @property
    def pid(self) -> int:
        """The server's own process, once it was started."""
        assert self._process is not None
        return self._process.pid

    def choose_again(self) -> None:
        """Replace the ports that were not asked for by number with other free ones."""
        self.address = Address.choose(*self._wanted)

    def start(self, timeout_s: float, abort: threading.Event | None = None) -> None:
        """One attempt: it serves when this returns, and nothing of it is left when this raises.

        Raises ``BadStart`` E-SERVER-START, E-SERVER-PORT, ``StartAborted``, and what a model raised while it was
        loaded.
        """
        self._models = None
        log_begin = self.log_file.stat().st_size if self.log_file.exists() else 0
        for mark in (DRAINING, ENDING):
            (self._marks / mark).unlink(missing_ok=True)
        self._process = TritonProcess(
            self._runtime,
            traces=self._traces,
            address=self.address,
            log_file=self.log_file,
            world_size=self._world_size,
        )
        if self._nice:
            give_way(self._process.pid, self._nice)
        abort, deadline = abort or threading.Event(), time.monotonic() + timeout_s
        try:
            while not _says_ready(self.address.http_url):
                if self._process.exit_status is not None:
                    raise self._explain_exit(self._process.exit_status, log_begin)
                if time.monotonic() > deadline:
                    raise BadStart("E-SERVER-START", f"The server was not ready after {timeout_s:g} s.", _SEE_LOG)
                if abort.wait(_POLL_S):
                    raise StartAborted
            self.ask(max(1.0, deadline - time.monotonic()))
            self._models = ModelProcesses(self._traces.prefix)
            if self._nice:
                give_way_as_session(self._process.pid, self._nice)
        except BaseException:
            self._process.kill()
            if abort.is_set():
                raise StartAborted from None
            raise

    def ask(self, timeout_s: float) -> None:
        """Have the whole ensemble answer a one-token question. Raises the ``NvlmError`` with which that fails."""
        # A question abandoned costs a token. Stopping it would cost a hung server's watcher as long again.
        with HttpClient(self.address.http_url, timeout_s, stops=False) as client:
            client.stream("Hello", options=_PROBE, named="health-").finish()

    def figures(self) -> TritonFigures:
        """Raises ``OSError``, ``ValueError``."""
        return read_figures(self.address.metrics_url)

    def refuse_new(self) -> None:
        """From now on new questions are refused; those in progress continue."""
        (self._marks / DRAINING).touch()

    def end_streams(self) -> None:
        """End each stream with an error instead of its next piece."""
        (self._marks / ENDING).touch()

    def stop(self) -> None:
        """End it in its own way, or by force if that takes long. May be called again."""
        if self._process is not None:
            self._process.stop(self._models.all_dead if self._models else lambda: False)

    def kill(self) -> None:
        """End it at once. May be called again."""
        if self._process is not None:
            self._process.kill()

    def keep_log(self) -> None:
        """Copy the log into the deployment's folder, unless it was sent elsewhere."""
        if self._keeps_log:
            with suppress(OSError):
                shutil.copyfile(self.log_file, self._deployment_dir / "server.log")

    def close(self) -> None:
        """End it and remove everything it left. May be called again."""
        self.kill()
        self._traces.remove()

    @property
    def _marks(self) -> Path:
        return self._traces.folder / "marks"

    def _explain_exit(self, status: int, log_begin: int) -> NvlmError:
        log = self.log_file.read_bytes()[log_begin:].decode(errors="replace")
        if "already in use" in log:
            return BadStart("E-SERVER-PORT", "A port of the server was taken just before it started.", "Start again.")
        for line in log.splitlines():
            known = from_message(line.split("\\n")[0])
            if known is not None:
                return known
        if status < 0:
            return BadStart("E-SERVER-START", f"The server was ended by signal {-status} at its start.", _SEE_LOG)
        return ServerError("E-SERVER-START", f"The server ended at its start with status {status}.", _SEE_LOG)


def _check_writable(log_file: Path) -> None:
    try:
        log_file.open("ab").close()
    except OSError:
        what = f"The server's log {log_file.name!r} cannot be written."
        raise UsageError("E-USAGE-LOG", what, "Name a file in a folder that exists and may be written.") from None


def _says_ready(http_url: str) -> bool:
    try:
        read_page(f"{http_url}/v2/health/ready", 1)
    except OSError:
        return False
    return True
