"""How much memory this process holds, from ``/proc``; zeros where there is no ``/proc``."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ProcessMemory", "process_memory", "reset_peak"]

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """``rss_bytes`` now, ``peak_rss_bytes`` since the last reset; both count mapped file pages that are resident."""

    rss_bytes: int = 0
    peak_rss_bytes: int = 0


def process_memory() -> ProcessMemory:
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return ProcessMemory()
    kib = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS:", "VmHWM:"))}
    return ProcessMemory(int(kib.get("VmRSS", 0)) * 1024, int(kib.get("VmHWM", 0)) * 1024)


def reset_peak() -> None:
    """Reset the peak, so that each step has its own. Without the permission for it the peak remains the process's."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
