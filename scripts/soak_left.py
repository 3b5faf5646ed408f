"""What servers leave behind: unfinished work, processes, shared memory, files."""

from __future__ import annotations

import os
import re
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.processes import command

__all__ = ["files_of", "left_behind", "own_temporary_folder", "shared_memory_prefixes", "still_busy"]

_SETTLE_S = 0.5  # the decoder brings its figures up to date a few times a second
_IDLE = {
    'nvlm_decoder_requests{state="running"}': 0,
    'nvlm_decoder_requests{state="waiting"}': 0,
    'nvlm_decoder_requests{state="unsent"}': 0,
    "nvlm_gateway_num_requests_running": 0,
    "nvlm_gateway_num_requests_waiting": 0,
}


@contextmanager
def own_temporary_folder() -> Iterator[Path]:
    """So that what servers forget there can be told from what others do."""
    before, told = tempfile.tempdir, os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before
            os.environ.pop("TMPDIR")
            os.environ |= {"TMPDIR": told} if told else {}


def still_busy(*urls: str) -> list[str]:
    """What the servers' own figures say is not over. A slot is given back just after its answer's end."""
    wrong: list[str] = []
    for _ in range(20):
        time.sleep(_SETTLE_S)
        figures: dict[str, float] = {}
        for url in urls:
            with urllib.request.urlopen(url) as page:
                lines = [line.rpartition(" ") for line in page.read().decode().splitlines() if line[0] != "#"]
            figures |= {name: float(value) for name, _, value in lines}
        wrong = [f"{name} is {figures[name]:g}" for name, idle in _IDLE.items() if figures[name] != idle]
        pool = [figures[f'nvlm_decoder_pool_tokens{{state="{state}"}}'] for state in ("free", "all")]
        wrong += [f"{pool[1] - pool[0]:g} positions of the pool are taken"] if pool[0] != pool[1] else []
        if not wrong:
            break
    return wrong


def files_of(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*")}


def shared_memory_prefixes(pids: Iterable[int]) -> set[str]:
    return {found[0] for pid in pids for word in command(pid) if (found := re.match(r"nvlm_[0-9a-f]{12}_", word))}


def left_behind(prefixes: set[str], pids: Iterable[int], folder: Path) -> list[str]:
    files = [file.name for file in Path("/dev/shm").iterdir() if file.name.startswith(tuple(prefixes))]
    return [
        *(f"process {pid}" for pid in pids if Path(f"/proc/{pid}").exists()),
        *(f"/dev/shm/{name}" for name in files),
        *(f"temporary file {name}" for name in sorted(files_of(folder))),
    ]
