"""Watches the processes of a server's Python models from outside, because Triton does not report when one has died.

A question does find out, seconds later; until then a client that streams from the dead model hears nothing.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

__all__ = ["ModelProcesses"]

_STUB = b"triton_python_backend_stub"


class ModelProcesses:
    """Those that run now and have ``prefix``, that of their server's shared memory, in their command lines."""

    def __init__(self, prefix: str) -> None:
        self._names: dict[Path, str] = {}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                if _STUB in words[0] and any(word.startswith(prefix.encode()) for word in words):
                    # .../repository/NAME/1/model.py
                    self._names[process / "stat"] = Path(words[1].decode()).parents[1].name

    def dead(self) -> str | None:
        """The name of a model whose process has ended since."""
        return next((name for stat, name in self._names.items() if _has_ended(stat)), None)

    def all_dead(self) -> bool:
        """Whether there were any, and each has ended."""
        return bool(self._names) and all(map(_has_ended, self._names))


def _has_ended(stat: Path) -> bool:
    try:
        return stat.read_bytes().rpartition(b")")[2].split()[0] == b"Z"
    except OSError:
        return True
