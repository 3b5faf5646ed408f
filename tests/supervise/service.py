"""``nvlm-trt serve`` as a person runs it, and looking at what it runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nvlm_trt.client import AskOptions, GrpcClient
from nvlm_trt.deploy.announcement import read_announcement
from nvlm_trt.errors import NvlmError
from tests.deploy.processes import children, wait_for
from tests.gateway.raw import Told, send

__all__ = ["QUESTION", "Service", "all_pids"]

ROOT = Path(__file__).parents[2]
QUESTION = AskOptions(max_tokens=4)
_FREE = ("http", "grpc", "metrics", "gateway", "health")


class Service:
    """Serves when its constructor returns; a context manager that ends it by force. Its log's lines are ``events``."""

    def __init__(self, deployment: Path, *arguments: str, environment: Mapping[str, str] = os.environ) -> None:
        ports = [f"--{name}-port=0" for name in _FREE]
        self._errors = open_unlinked()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nvlm_trt", "serve", str(deployment), *ports, "--json", "--json-log", *arguments],
            env={**environment, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        assert self.process.stdout is not None
        self.urls: dict[str, str] = read_announcement(self.process.stdout)
        with GrpcClient(self.urls["grpc"]) as client:
            self.answer = client.ask("What is it?", (), QUESTION).text

    @property
    def errors(self) -> str:
        self._errors.seek(0)
        text: str = self._errors.read()
        return text

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.errors.splitlines() if line.startswith("{")]

    def health(self) -> Told:
        base, _, path = self.urls["health"].rpartition("/")
        return send(base, path=f"/{path}")

    def restarts(self, part: str) -> int:
        return int(self.health().json["restarts"][part])

    def recovers(self, part: str, before: int) -> bool:
        """Started again since ``before`` restarts, ready, and giving the answer that it gave at first."""
        if not wait_for(lambda: self.restarts(part) > before and self.health().status == 200, 60):
            return False
        return self.asks() == self.answer

    def asks(self) -> str:
        with GrpcClient(self.urls["grpc"], timeout_s=20) as client:
            return client.ask("What is it?", (), QUESTION).text

    def pid(self, name: str) -> int:
        """Of the process whose command line has ``name``: "tritonserver", or a model's ``NAME_0_0``."""
        found = [pid for pid, command in all_pids(self.process.pid).items() if name in command.split("keeper.py")[0]]
        assert len(found) == 1, found
        return found[0]

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.pid(name), number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()


def all_pids(root: int) -> dict[int, str]:
    """``root``'s descendants, with their command lines."""
    found: dict[int, str] = {}
    for pid, command in children(root).items():
        found |= {pid: command} | all_pids(pid)
    return found


def open_unlinked() -> Any:
    import tempfile

    return tempfile.TemporaryFile("w+", encoding="utf-8")


def answers_within(ask: Any, seconds: float) -> bool:
    """Whether ``ask`` ends, well or with one of our errors, in that time."""
    began = time.monotonic()
    with suppress(NvlmError):
        ask()
    return time.monotonic() - began < seconds
