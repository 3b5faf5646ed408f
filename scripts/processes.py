"""The processes below this one, by name, with their processor time and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nvlm_trt.deploy.announcement import read_announcement

__all__ = [
    "MODELS",
    "command",
    "memory_bytes",
    "processes_below",
    "processor_s",
    "processor_s_by_name",
    "program",
]

MODELS = ("preprocessing", "vision_encoder", "tensorrt_llm", "postprocessing")
_TICKS = os.sysconf("SC_CLK_TCK")


def processes_below(pid: int) -> dict[int, str]:
    """Every process below ``pid``: Triton's model processes by their models, a gateway, a supervisor, their keepers,
    and ``server`` for the rest."""
    found: dict[int, str] = {}
    for one in sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        try:
            parent = int(_stat(one)[1])
            words = command(one)
        except OSError:
            continue
        if parent == pid or parent in found:
            found[one] = _name(words)
    return found


@contextmanager
def program(*words: str) -> Iterator[dict[str, Any]]:
    """``nvlm-trt WORDS`` in a process of its own, which ends with the block, and what it prints when it has begun."""
    line = [sys.executable, "-m", "nvlm_trt", *words, "--json", "--quiet"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield read_announcement(process.stdout)
        finally:
            process.terminate()


def command(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def processor_s(pid: int) -> float:
    """Seconds of all its threads so far. Raises ``OSError`` when it is gone."""
    facts = _stat(pid)
    return (int(facts[11]) + int(facts[12])) / _TICKS


def processor_s_by_name(processes: Mapping[int, str]) -> dict[str, float]:
    """Of ``processes``, names by pid, that are still there, and as ``load`` of this one."""
    used = {"load": time.process_time(), **dict.fromkeys(processes.values(), 0.0)}
    for pid, name in processes.items():
        with suppress(OSError):
            used[name] += processor_s(pid)
    return used


def memory_bytes(pid: int) -> int:
    """What is its own, and shared memory it has touched; not the files it maps. Raises ``OSError``."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def _name(words: list[str]) -> str:
    if any(word.endswith("/keeper.py") for word in words):
        return "keeper"
    programs = {"gateway": "gateway", "serve": "supervisor"}
    models = (model for model in MODELS if any(f"/{model}/" in word for word in words))
    return next((programs[word] for word in words if word in programs), None) or next(models, "server")


def _stat(pid: int) -> list[str]:
    """The fields after the name, which may hold anything: state, parent, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
