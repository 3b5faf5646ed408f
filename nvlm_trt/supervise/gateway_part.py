"""The gateway as a part of the service, in a process of its own: nothing that strangers send can end the process that
would restart it.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys
import threading
import time
from collections.abc import Sequence

from nvlm_trt.deploy.address import in_url
from nvlm_trt.deploy.kept_process import KeptProcess
from nvlm_trt.deploy.staged_triton import BadStart, StartAborted
from nvlm_trt.errors import MissingToolError, ServerError, UsageError

__all__ = ["GatewayPart"]

_START_S = 60.0
# It was asked for what cannot be meant, or lacks a package: so it would be the next time.
_FINAL = (UsageError.exit_code, MissingToolError.exit_code)
_POLL_S = 0.05


class GatewayPart:
    """A ``Part`` that runs ``nvlm-trt gateway TRITON_URL ARGUMENTS...`` in this program's environment, listening on
    ``host`` and ``port``.
    """

    name = "gateway"

    def __init__(
        self,
        triton_url: str,
        host: str,
        port: int,
        arguments: Sequence[str],
        *,
        tls: bool,
        ask_timeout_s: float,
    ) -> None:
        place = ["--host", host, "--port", str(port), "--quiet"]
        # What it announces is not for this program's log: it says nothing of whether the service works.
        silent = ("sh", "-c", 'exec "$@" >/dev/null', "sh")
        self._command = [*silent, sys.executable, "-P", "-m", "nvlm_trt", "gateway", triton_url, *place, *arguments]
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._host, self._port, self._tls, self._ask_timeout_s = host, port, tls, ask_timeout_s
        self._process: KeptProcess | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{in_url(self._host)}:{self._port}"

    def start(self, abort: threading.Event) -> None:
        self._process = KeptProcess(self._command, environment=self._environment)
        deadline = time.monotonic() + _START_S
        try:
            while not self._answers(1.0):
                status = self._process.exit_status
                if status is not None:
                    kind = ServerError if status in _FINAL else BadStart
                    raise kind("E-SERVER-START", "The gateway ended at its start.", "What it said is above.")
                if time.monotonic() > deadline:
                    raise BadStart("E-SERVER-START", f"The gateway did not listen within {_START_S:g} s.", "Try again.")
                if abort.wait(_POLL_S):
                    raise StartAborted
        except BaseException:
            self._process.kill()
            raise

    def how_it_ended(self) -> str | None:
        status = self._process.exit_status if self._process else None
        if status is None:
            return None
        return f"The gateway was ended by signal {-status}." if status < 0 else f"The gateway ended with {status}."

    def ask(self) -> None:
        """Ask whether it answers at all; Triton behind it has a watcher of its own."""
        if not self._answers(self._ask_timeout_s):
            raise ServerError("E-SERVER-TIMEOUT", f"The gateway said nothing for {self._ask_timeout_s:g} s.", "Wait.")

    def progress(self) -> float:
        return 0.0

    def drain(self) -> None:
        """Tell it to take no more requests, finish those that have begun, and end."""
        if self._process is not None:
            self._process.terminate()

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _answers(self, timeout_s: float) -> bool:
        connection = self._connection(timeout_s)
        try:
            connection.request("GET", "/live")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        if not self._tls:
            return http.client.HTTPConnection(host, self._port, timeout=timeout_s)
        # Its certificate is for the name that its clients use, not for this address; nothing secret is sent here.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(host, self._port, timeout=timeout_s, context=context)
