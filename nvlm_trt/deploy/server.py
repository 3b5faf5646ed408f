"""A Triton server over a deployment, from start to the last trace of it.

Triton answers "ready" when models are loaded, and goes on saying so after one has died. So a start has succeeded when a
question of one token was answered by the whole ensemble. Starts are known to die of a signal or to hang now and then
on a busy machine; such a one is ended and tried once more.
"""

from __future__ import annotations

import shutil
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from nvlm_trt.client import AskOptions, HttpClient
from nvlm_trt.deploy.memory import shared_memory_bytes
from nvlm_trt.deploy.model_config import read_model_config
from nvlm_trt.deploy.process import Address, TritonProcess
from nvlm_trt.deploy.runtime import TritonRuntime, check_shared_memory, find_runtime
from nvlm_trt.deploy.staging import make_work_folder, stage_repository
from nvlm_trt.errors import MissingToolError, NvlmError, ServerError, from_message
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.model.json_file import read_json_object

__all__ = ["TritonServer"]

_POLL_S = 0.05
_ATTEMPTS = 2
_PROBE = AskOptions(max_tokens=1, stream=False)


class TritonServer:
    """Starts in its constructor and serves until ``stop``; a context manager. A port of 0 takes a free one.

    The server's log goes to ``log_file``. When that is not given, it goes with the server, unless the start fails: then
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
        """Raises ``MissingToolError`` E-TOOL-*, ``ArtefactError`` E-ARTEFACT-TRITON, ``ServerError`` E-SERVER-START,
        E-SERVER-PORT, E-SERVER-PATH, and what a model raised while it was loaded.
        """
        runtime = find_runtime()
        _check_deployment(deployment_dir)
        self._work_folder = make_work_folder()
        self.log_file = log_file or self._work_folder / "server.log"
        self._process: TritonProcess | None = None
        try:
            stage_repository(deployment_dir, checkpoint_dir, self._work_folder / "repository")
            for attempt in range(_ATTEMPTS):
                self.address = Address.choose(host, http_port, grpc_port, metrics_port)
                try:
                    self._start(runtime, start_timeout_s)
                    return
                except _BadStart:
                    if attempt + 1 == _ATTEMPTS:
                        raise
        except BaseException:
            if log_file is None:
                with suppress(OSError):
                    shutil.copyfile(self.log_file, deployment_dir / "server.log")
            self.stop()
            raise

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
        return self._process is not None and self._process.exit_status is None

    def stop(self) -> None:
        """End the server, whatever state it is in, and remove all it left. May be called again."""
        if self._process is not None:
            self._process.stop()
        shutil.rmtree(self._work_folder, ignore_errors=True)

    def __enter__(self) -> TritonServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self, runtime: TritonRuntime, timeout_s: float) -> None:
        self.log_file.write_bytes(b"")
        self._process = TritonProcess(
            runtime,
            repository=self._work_folder / "repository",
            work_folder=self._work_folder,
            address=self.address,
            log_file=self.log_file,
        )
        deadline = time.monotonic() + timeout_s
        try:
            while not _is_ready(self.address.http_url):
                if self._process.exit_status is not None:
                    raise self._explain_exit(self._process.exit_status)
                if time.monotonic() > deadline:
                    raise _BadStart("E-SERVER-START", f"The server was not ready after {timeout_s:g} s.", _SEE_LOG)
                time.sleep(_POLL_S)
            with HttpClient(self.address.http_url, max(1.0, deadline - time.monotonic())) as client:
                client.ask("Hello", options=_PROBE)
        except BaseException:
            self._process.kill()
            raise

    def _explain_exit(self, status: int) -> NvlmError:
        log = self.log_file.read_text(encoding="utf-8", errors="replace")
        if "already in use" in log:
            return _BadStart("E-SERVER-PORT", "A port of the server was taken just before it started.", "Start again.")
        for line in log.splitlines():
            known = from_message(line.split("\\n")[0])
            if known is not None:
                return known
        if status < 0:
            return _BadStart("E-SERVER-START", f"The server was ended by signal {-status} at its start.", _SEE_LOG)
        return ServerError("E-SERVER-START", f"The server ended at its start with status {status}.", _SEE_LOG)


_SEE_LOG = "The server's log says more; it is kept beside the deployment unless it was sent elsewhere."


class _BadStart(ServerError):
    """A start that may succeed the next time."""


def _check_deployment(folder: Path) -> None:
    decoder = read_model_config(folder / "triton_repo" / "tensorrt_llm" / "config.pbtxt")
    if decoder.backend != "python":
        raise MissingToolError(
            "E-TOOL-TRTLLM",
            "This deployment's decoder runs in TensorRT-LLM's Triton backend, which the local server does not have.",
            "Serve it in the recipe's container, or build one with --recipe embedded.",
        )
    preprocessing = read_model_config(folder / "triton_repo" / "preprocessing" / "config.pbtxt")
    config = NvlmConfig.from_json(read_json_object(folder / "model" / "config.json", "CONFIG"))
    check_shared_memory(shared_memory_bytes(config, int(preprocessing.parameters["max_images"].string_value)))


def _is_ready(http_url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{http_url}/v2/health/ready", timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False
