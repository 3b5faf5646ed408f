"""How long each fault of a running service lasts for a client: from the fault until the right answer comes again.

    python scripts/measure_faults.py DIR [--runs 5] [--json FILE]

Starts ``nvlm-trt serve DIR`` with its defaults. For faults in mid-stream it keeps one stream running through Triton and
one through the gateway. It provokes the fault and repeats one question until it is answered as it was before; a
different answer is an error and ends the script. Printed for each fault, as median (least-most):

    noticed     until /health said 503
    told        until the stream through Triton, and that through the gateway, ended with an error
    recovered   until the question was answered again, and /health said 200
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nvlm_trt.client import AskOptions, HttpClient
from nvlm_trt.deploy.announcement import read_announcement
from nvlm_trt.errors import NvlmError
from scripts.facts import facts, show_facts

_PORTS = [f"--{name}-port=0" for name in ("http", "grpc", "metrics", "gateway", "health")]
_QUESTION, _OPTIONS = "What is it?", AskOptions(max_tokens=8)
_LIMIT_S = 120.0


@dataclass(frozen=True)
class Fault:
    """``process`` is part of the command line of what gets ``number``; ``streams`` run meanwhile."""

    name: str
    process: str
    number: signal.Signals = signal.SIGKILL
    streams: bool = False
    gateway: bool = False


FAULTS = (
    Fault("decoder's process killed, idle", "tensorrt_llm_0_0"),
    Fault("decoder's process killed, in mid-stream", "tensorrt_llm_0_0", streams=True),
    Fault("preprocessing killed, idle", "preprocessing_0_0"),
    Fault("postprocessing killed, in mid-stream", "postprocessing_0_0", streams=True),
    Fault("Triton killed, idle", "bin/tritonserver"),
    Fault("Triton killed, in mid-stream", "bin/tritonserver", streams=True),
    Fault("Triton stopped (SIGSTOP)", "bin/tritonserver", signal.SIGSTOP),
    Fault("gateway killed, in mid-stream", "nvlm_trt gateway", streams=True, gateway=True),
)


class Service:
    def __init__(self, deployment: Path) -> None:
        # So many failures are wanted here that they must not add up.
        command = [sys.executable, "-m", "nvlm_trt", "serve", str(deployment), "--failure-window-s=0.1", *_PORTS]
        self.process = subprocess.Popen(
            [*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        self.urls = read_announcement(self.process.stdout)
        self.answer = self.ask()

    def ask(self) -> str:
        with HttpClient(self.urls["http"], 2, stops=False) as client:
            return client.ask(_QUESTION, (), _OPTIONS).text

    def chat(self) -> str:
        body = {"model": "nvlm-d", "messages": [{"role": "user", "content": _QUESTION}], "max_tokens": 8}
        url, kind = f"{self.urls['gateway']}/v1/chat/completions", {"Content-Type": "application/json"}
        request = urllib.request.Request(url, json.dumps(body).encode(), kind)
        with urllib.request.urlopen(request, timeout=5) as response:
            return str(json.load(response)["choices"][0]["message"]["content"])

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.urls["health"], timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def pid(self, name: str) -> int:
        running = _descendants(self.process.pid)
        found = [pid for pid, command in running if name in command and "keeper.py" not in command]
        if len(found) != 1:
            raise SystemExit(f"{len(found)} processes have {name!r} in their command lines")
        return found[0]

    def stop(self) -> float:
        began = time.monotonic()
        self.process.terminate()
        self.process.wait(_LIMIT_S)
        return time.monotonic() - began


class Stream:
    """One answer that is not over when the fault comes; ``error_s`` is when it ended, by time.monotonic()."""

    def __init__(self, url: str, path: str, body: dict[str, Any]) -> None:
        self.error_s: float | None = None
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(urlsplit(url), path, body))
        self._thread.start()

    def wait_begun(self) -> None:
        self._begun.wait(_LIMIT_S)

    def join(self) -> float | None:
        self._thread.join(_LIMIT_S)
        return self.error_s

    def _run(self, place: Any, path: str, body: dict[str, Any]) -> None:
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=_LIMIT_S)
        whole = False
        with suppress(OSError, http.client.HTTPException):
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            for line in connection.getresponse():
                self._begun.set()
                whole = whole or b"[DONE]" in line
                if b'"error"' in line:
                    break
        self.error_s = None if whole else time.monotonic()
        connection.close()


def measure(service: Service, fault: Fault) -> dict[str, float]:
    streams, process = {}, service.pid(fault.process)
    if fault.streams:
        long = {"max_tokens": 900, "min_tokens": 900, "stream": True}
        triton = {"id": f"stream-{time.monotonic_ns()}", "text_input": "Tell a long story.", **long}
        chat = {"model": "nvlm-d", "messages": [{"role": "user", "content": "Tell a long story."}], **long}
        streams["gateway"] = Stream(service.urls["gateway"], "/v1/chat/completions", chat)
        if not fault.gateway:
            streams["Triton"] = Stream(service.urls["http"], "/v2/models/ensemble/generate_stream", triton)
    for stream in streams.values():
        stream.wait_begun()
    ask = service.chat if fault.gateway else service.ask
    began = time.monotonic()
    os.kill(process, fault.number)
    found: dict[str, float] = {}
    if not fault.gateway:
        found["noticed"] = _until(lambda: not service.ready()) - began
    found["recovered"] = _until(lambda: _answered(ask, service.answer) and service.ready()) - began
    for name, stream in streams.items():
        ended = stream.join()
        if ended is not None:
            found[f"told by {name}"] = ended - began
    return found


def _answered(ask: Callable[[], str], wanted: str) -> bool:
    try:
        answer = ask()
    except (NvlmError, OSError, http.client.HTTPException, urllib.error.HTTPError):
        return False
    if answer != wanted:
        raise SystemExit(f"another answer than before: {answer!r}, not {wanted!r}")
    return True


def _until(condition: Callable[[], bool]) -> float:
    deadline = time.monotonic() + _LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {_LIMIT_S:g} s")
        time.sleep(0.01)
    return time.monotonic()


def _descendants(root: int) -> list[tuple[int, str]]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == root:
                pid = int(folder.name)
                found += [(pid, (folder / "cmdline").read_text().replace("\0", " ")), *_descendants(pid)]
    return found


def _shown(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})" if values else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("deployment", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where every run's figures go")
    arguments = parser.parse_args()
    show_facts(facts())
    print(f"{arguments.runs} runs of each, seconds as median (least-most)\n")
    columns = ("noticed", "told by Triton", "told by gateway", "recovered")
    print("| fault | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    service, told = Service(arguments.deployment), {}
    try:
        for fault in FAULTS:
            runs = told[fault.name] = [measure(service, fault) for _ in range(arguments.runs)]
            cells = [_shown([run[column] for run in runs if column in run]) for column in columns]
            print(f"| {fault.name} | " + " | ".join(cells) + " |", flush=True)
        print(f"\nan end without streams took {service.stop():.2f} s; every answer was the same")
    finally:
        service.process.kill()
        service.process.wait()
    if arguments.json:
        arguments.json.write_text(json.dumps(told, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
