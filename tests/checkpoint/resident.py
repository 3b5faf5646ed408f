"""How much memory this process has of a mapped file."""

from __future__ import annotations

from pathlib import Path

__all__ = ["resident_bytes"]


def resident_bytes(path: Path) -> int:
    total_bytes, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:  # a mapping's first line begins with its addresses, and ends with its file
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total_bytes += int(line.split()[1]) << 10
    return total_bytes
