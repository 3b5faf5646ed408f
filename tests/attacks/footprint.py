"""What a running server holds: processes, files, memory. An attack must leave none of these behind.

Memory is what processes wrote and nobody else has (RssAnon). Allocators keep some of what they were given back, so one
attack may leave a buffer's worth; all of them once more may not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["ProcessMemory", "TritonFootprint"]

_PROC = Path("/proc")
_SHARED_MEMORY = Path("/dev/shm")


class ProcessMemory:
    """Of processes that must go on living; reading it fails when one is gone."""

    def __init__(self, *pids: int) -> None:
        self._statuses = [_PROC / str(pid) / "status" for pid in pids]

    def bytes(self) -> int:
        texts = (status.read_text(encoding="utf-8") for status in self._statuses)
        # A process that has died and was not waited for has no memory any more.
        return sum(int(found[1]) * 1024 for text in texts if (found := re.search(r"RssAnon:\s+(\d+) kB", text)))

    @property
    def alive(self) -> bool:
        return all("State:\tZ" not in status.read_text(encoding="utf-8") for status in self._statuses)


class TritonFootprint:
    """Of the Triton that listens at this port of this machine, with its models' processes."""

    def __init__(self, grpc_port: int) -> None:
        commands = dict(_commands())
        (server,) = (
            pid for pid, words in commands.items()
            if words[0].endswith("/tritonserver") and f"--grpc-port={grpc_port}" in words
        )  # fmt: skip
        options = [word.partition("=") for word in commands[server]]
        (repository,) = (value for name, _, value in options if name == "--model-repository")
        (self._prefix,) = (value.rpartition("=")[2] for _, _, value in options if "shm-region-prefix-name" in value)
        self._folder = Path(repository).parent
        self.memory = ProcessMemory(server, *(pid for pid in commands if _parent(pid) == server))

    def files(self) -> set[str]:
        """In the server's own folder, and its own in /dev/shm."""
        return {str(file) for file in (*self._folder.rglob("*"), *_SHARED_MEMORY.glob(f"{self._prefix}*"))}


def _commands() -> Iterator[tuple[int, list[str]]]:
    for folder in _PROC.glob("[0-9]*"):
        try:
            yield int(folder.name), (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue


def _parent(pid: int) -> int:
    try:
        return int((_PROC / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except OSError:
        return 0
