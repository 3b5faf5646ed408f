"""What runs below this process, by name, and what it takes: processor time, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["MODELS", "command", "gateway_process", "memory_bytes", "processes_below", "processor_s"]

MODELS = ("preprocessing", "vision_encoder", "tensorrt_llm", "postprocessing")
_TICKS = os.sysconf("SC_CLK_TCK")


def processes_below(pid: int) -> dict[int, str]:
    """Every process below ``pid``: Triton's model processes by their models, a gateway, and ``server`` for the rest."""
    found: dict[int, str] = {}
    for one in sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        try:
            parent = int(_stat(one)[1])
            words = command(one)
        except OSError:
            continue
        if parent == pid or parent in found:
            found[one] = next((model for model in MODELS if any(f"/{model}/" in word for word in words)), "server")
            if "gateway" in words:
                found[one] = "gateway"
    return found


@contextmanager
def gateway_process(triton_url: str, *options: str) -> Iterator[str]:
    """The address of a gateway in a process of its own: in this one it would share an interpreter with the load."""
    words = [sys.executable, "-m", "nvlm_trt", "gateway", triton_url, "--port", "0", "--json", "--quiet", *options]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            told = ""
            for line in process.stdout:
                told += line
                if line == "}\n":
                    break
            yield str(json.loads(told)["gateway"])
        finally:
            process.terminate()


def command(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def processor_s(pid: int) -> float:
    """Seconds of all its threads so far. Raises ``OSError`` when it is gone."""
    facts = _stat(pid)
    return (int(facts[11]) + int(facts[12])) / _TICKS


def memory_bytes(pid: int) -> int:
    """What is its own, and shared memory it has touched; not the files it maps. Raises ``OSError``."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def _stat(pid: int) -> list[str]:
    """The fields after the name, which may hold anything: state, parent, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
