"""Lets one program give way to the others where they share cores.

Models on the CPU take all of it, and a process that only passes requests on or refuses them waits behind them. A nice
value alone does not help where the kernel groups processes by session (autogroup): among sessions only the session's
own value counts. So both are set.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["give_way", "give_way_as_session"]

_MOST = 19


def give_way(pid: int, nice: int) -> None:
    """Call this before the program has threads or children: those that it makes later are as nice as it is."""
    if pid:  # else it could not be started, and 0 would be this process
        with suppress(ProcessLookupError):  # it has ended, and whoever waits for it will be told
            os.setpriority(os.PRIO_PROCESS, pid, min(_MOST, os.getpriority(os.PRIO_PROCESS, pid) + nice))


def give_way_as_session(pid: int, nice: int) -> None:
    """``pid``'s whole session, where the kernel knows such a thing."""
    with suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(f"{nice}\n")
