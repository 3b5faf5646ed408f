"""Looking at processes from outside."""

from __future__ import annotations

import time
from pathlib import Path

__all__ = ["children", "lives", "wait_for"]


def wait_for(condition, timeout_s: float = 20.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


def lives(pid: int) -> bool:
    return _stat(Path(f"/proc/{pid}"))[0] not in ("", "Z")


def children(pid: int) -> dict[int, str]:
    """Living ones, with their command lines."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        state, parent = _stat(folder)
        if parent == pid and state != "Z":
            found[int(folder.name)] = (folder / "cmdline").read_text(errors="replace").replace("\0", " ")
    return found


def _stat(folder: Path) -> tuple[str, int]:
    try:
        state, parent = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[:2]
    except OSError:
        return "", 0
    return state, int(parent)
