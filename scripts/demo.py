"""The whole main job on this machine: a small checkpoint that can read, a build, a Triton server, what a sign says.

It runs the commands a person would type and shows them. Everything goes to ``demo/``, where a second run finds the
build. Nothing keeps running afterwards.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from nvlm_trt.deploy.announcement import read_announcement

ROOT = Path(__file__).parents[1]
CHECKPOINT = Path("calibration/mini")
DEPLOYMENT = Path("demo/deployment")
PICTURE = Path("calibration/sign.png")
QUESTION = "What does the sign say?"


def main() -> None:
    start_s = time.monotonic()
    nvlm_trt("build", str(CHECKPOINT), "--recipe", "embedded", "-o", str(DEPLOYMENT))
    with server() as urls:
        for protocol in ("grpc", "http"):
            nvlm_trt("ask", urls[protocol], "--stream", "--image", str(PICTURE), "--max-tokens", "32", QUESTION)
    say(f"done in {time.monotonic() - start_s:.1f} s, and nothing is left running. The model is this project's own, of")
    say("5.1 million parameters: it reads lines of up to eight letters, 90 of 100 right (docs/mini-model.md).")
    say(f"next: .venv/bin/nvlm-trt serve {DEPLOYMENT}, then ask at http://localhost:9000/ about pictures of your own")


@contextlib.contextmanager
def server() -> Iterator[dict[str, str]]:
    """``nvlm-trt serve`` on free ports, stopped at the end as Ctrl-C would."""
    command = [
        "serve",
        str(DEPLOYMENT),
        "--http-port",
        "0",
        "--grpc-port",
        "0",
        "--metrics-port",
        "0",
        "--no-gateway",
        "--json",
    ]
    show("nvlm-trt", *command)
    process = subprocess.Popen([sys.executable, "-m", "nvlm_trt", *command], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        urls = read_announcement(process.stdout)
        if "grpc" not in urls:
            sys.exit(process.wait() or 1)
        yield urls
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


def nvlm_trt(*arguments: str) -> None:
    show("nvlm-trt", *arguments)
    run(sys.executable, "-m", "nvlm_trt", *arguments)


def run(*command: str) -> None:
    """Its words are the user's to read; if it fails they say why, and its exit code is ours."""
    status = subprocess.run(command, check=False).returncode
    if status:
        sys.exit(status)


def show(*command: str) -> None:
    print(f"\n$ {shlex.join(command)}", flush=True)


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    os.chdir(ROOT)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
